"""Secrets by reference: ``{{secret:name}}`` in a header or parameter, replaced in each request.

A secret is bound to hosts and is sent to no other host. So a person who changes the URL of a job
cannot get the secret.

Daybook shows and exports jobs, and stores all their revisions. So in a field that may contain
references to secrets, Daybook refuses a value that itself looks like a secret (a literal secret).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from daybook.errors import InvalidInput
from daybook.http.addresses import DEFAULT_PORTS
from daybook.jobs.secret_references import SECRET
from daybook.redaction import HIDDEN, redact, remember, spellings

if TYPE_CHECKING:
    import httpx

SecretField = Literal["headers", "params"]
FIELDS: tuple[SecretField, ...] = ("headers", "params")
"""Fields of a job that may contain references to secrets."""

STORE_SECRET_HINT = (
    "store it with `daybook secrets add NAME --host HOST` and write {{secret:name}} instead"
)

_REFERENCE = SECRET
_PREFECT_REFERENCE = re.compile(
    r"(\A\s*(Bearer|Basic|Token)\s+)?\{\{\s*prefect\.(blocks|variables)\.[\w.-]+\s*\}\}",
    re.IGNORECASE,
)
"""A reference to a block or variable of Prefect, after the scheme of a header if there is one."""
_BEGINS = re.compile(r"\{\{\s*secret\b")
_MIN_HIDDEN_LENGTH = 4

# The last one or two words of a header's name, as in X-Api-Key or PRIVATE-TOKEN.
_SECRET_HEADER = re.compile(
    r"(^|-)(authorization|cookie|token|secret|passw(or)?d|(api|access|auth|private)-?key|apikey"
    r"|credentials?)\Z"
)
_SECRET_VARIABLE = re.compile(
    rf"(?!image-pull-secret\Z).*({_SECRET_HEADER.pattern}|passw(or)?d\Z|-(pwd|pass)\Z)"
)
"""The name of a variable, as in PGPASSWORD or MYSQL-PWD; an image pull secret is only a name."""
_ASSIGNED = re.compile(
    r"(?<![\w-])-*+([A-Za-z][\w-]*+)=(?![\s&$]|\{\{|\Z)"
    r"|(?<![\w-])--([A-Za-z][\w-]*+)\s++(?![-$]|\{\{|\Z)"
)
"""A name with a value that is neither a reference nor a variable."""
_PASSWORD_IN_URL = re.compile(r"://[^\s/?#@:]*:[^\s/?#@]+@")
_SECRET_PARAM = re.compile(
    r"passw(or)?d|(client_?|api_?)?secret|(api|private|secret)_?key|(access|auth|bearer)_?token"
    r"|authorization|credentials?"
)
_SECRET_VALUE = re.compile(
    r"""
    \bBearer\s+(?=[^\s\d]{0,500}\d)[A-Za-z0-9._~+/=-]{8,}
  | \b(sk|rk)[-_](live|test|ant|proj|or|svcacct|admin)?[-_]?[A-Za-z0-9_-]{16,}
  | \bgh[oprsu]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
  | \bxox[abeoprs]-[A-Za-z0-9-]{10,} | \bxapp-[A-Za-z0-9-]{10,}
  | \b(AKIA|ASIA)[0-9A-Z]{16}\b | \bAIza[\w-]{30,} | \bya29\.[\w-]{20,}
  | \b(npm|hf|dop_v1|shpat|lin_api|pat)_[A-Za-z0-9]{20,} | \bpnu_[A-Za-z0-9]{20,}
  | \bwhsec_[A-Za-z0-9+/=]{16,} | \bSG\.[\w-]{16,}\.[\w-]{16,}
  | (?<![\w-])(?=[\w-]*?\beyJ[\w-]{8})[\w-]++\.[\w-]{8,}+\.  # each word is read once
  | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Secret:
    """A secret.

    ``hosts`` are the destinations to which Daybook may send it: ``name``, ``name:port``,
    ``tool:name``.
    """

    name: str
    value: str = field(repr=False)
    hosts: tuple[str, ...]


class SecretStore(Protocol):
    """A store of secrets."""

    async def read(self, name: str) -> Secret:
        """Return the secret with this name.

        Raise `UnknownName` if it does not exist, and `InvalidInput` if it cannot be used.
        """
        ...


@dataclass(frozen=True)
class SecretDestination:
    """A destination of a secret.

    ``shown`` is its name in messages. ``known_as`` are its possible spellings in `Secret.hosts`.
    """

    shown: str
    known_as: frozenset[str]

    @classmethod
    def of_url(cls, url: httpx.URL) -> SecretDestination:
        """Return the destination of a URL that a guard has checked."""
        host = url.raw_host.decode("ascii").lower().removesuffix(".")
        port = url.port or DEFAULT_PORTS[url.scheme]
        bracketed = f"[{host}]" if ":" in host else host
        return cls(f"{bracketed}:{port}", frozenset({host, bracketed, f"{bracketed}:{port}"}))

    @classmethod
    def of_tool(cls, name: str) -> SecretDestination:
        """Return the destination for a tool that has no host."""
        return cls.of_name("tool", name)

    @classmethod
    def of_name(cls, noun: str, name: str) -> SecretDestination:
        """Return the destination for a tool, agent, channel or hook that has no host."""
        return cls(f"{noun}:{name}", frozenset({f"{noun}:{name}".lower()}))


@dataclass
class FilledSecrets:
    """The secrets that were filled in. Daybook must remove ``values`` from all output."""

    values: set[str] = field(default_factory=set, repr=False)

    def hide(self, text: str, *, is_cut: bool = False) -> str:
        """Replace each secret of at least `_MIN_HIDDEN_LENGTH` characters in ``text``.

        A server may send back a secret. For ``is_cut``, see `redact`.
        """
        return redact(text, self.replacements(), is_cut=is_cut)

    def replacements(self) -> dict[str, str]:
        """Return the replacement of each spelling of the secrets that `hide` replaces."""
        hidden = [value for value in self.values if len(value) >= _MIN_HIDDEN_LENGTH]
        return dict.fromkeys((each for v in hidden for each in spellings(v)), HIDDEN)


def references(what: str, text: str) -> list[str]:
    """Return the names of the secrets to which ``text`` refers, in their order in the text.

    Raise `InvalidInput` for a misspelt reference. ``what`` is the name of the field in the error.
    """
    if len(_BEGINS.findall(text)) != len(_REFERENCE.findall(text)):
        raise InvalidInput(
            what,
            "a reference to a secret is misspelt",
            "write {{secret:name}} with lowercase letters, digits and dashes",
        )
    return _REFERENCE.findall(text)


def referenced_names(value: Any) -> set[str]:
    """Return the secrets that the strings of a JSON value name. Ignore misspelt references."""
    return {name for _, text in _texts(value) for name in _REFERENCE.findall(text)}


async def fill(
    what: str,
    text: str,
    destination: SecretDestination,
    secrets: SecretStore,
    filled: FilledSecrets,
) -> str:
    """Return ``text`` with its secrets filled in. Add each secret to ``filled``.

    ``what`` is the field as the user wrote it. Raise `InvalidInput` for a misspelt reference, for a
    secret that is bound to other hosts, and the errors of `SecretStore.read`.
    """
    values = {}
    for name in references(what, text):
        secret = await secrets.read(name)
        if destination.known_as.isdisjoint(secret.hosts):
            raise InvalidInput(
                what,
                f'the secret "{name}" is not for {destination.shown}',
                f"it is bound to {', '.join(secret.hosts)}",
            )
        values[name] = secret.value
        filled.values.add(secret.value)
        remember(FilledSecrets({secret.value}).replacements())
    return _REFERENCE.sub(lambda found: values[found[1]], text)


async def fill_params(
    params: Any, destination: SecretDestination, secrets: SecretStore, filled: FilledSecrets
) -> Any:
    """Return the JSON value with the secrets filled into its strings. Keys stay unchanged.

    Raise the errors of `fill`.
    """
    match params:
        case str():
            return await fill("params", params, destination, secrets, filled)
        case list():
            return [await fill_params(each, destination, secrets, filled) for each in params]
        case dict():
            return {
                name: await fill_params(each, destination, secrets, filled)
                for name, each in params.items()
            }
        case _:
            return params


def refuse_literal_headers(headers: Mapping[str, str]) -> None:
    """Raise `InvalidInput` if the form of a header's value, or its name, shows a literal secret.

    If the name belongs to a secret, any value but a reference counts, even a misspelt one.
    """
    for name, value in headers.items():
        if _is_literal_header(name, value):
            raise InvalidInput(
                "headers", f'the value of "{name}" looks like a secret', STORE_SECRET_HINT
            )


def refuse_literal_params(params: Any) -> None:
    """Raise `InvalidInput` for a literal secret, by its form or name, or a misspelt reference."""
    for path, value in _texts(params):
        if _is_literal_param(path, value):
            problem = f'the value of "{path or "params"}" looks like a secret'
            raise InvalidInput("params", problem, STORE_SECRET_HINT)


def refuse_literal_variables(variables: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a literal secret in a job's variables for a work pool.

    Prefect's workers fill in references to Prefect's blocks. Nothing fills in Daybook's references,
    so refuse them too.
    """
    hint = "save it as a Secret block in Prefect, and write {{ prefect.blocks.secret.NAME }}"
    for path, value in _texts(_by_name(variables)):
        if _BEGINS.search(value):
            raise InvalidInput("job_variables", f'"{path}" refers to a secret of Daybook', hint)
        rest = _PREFECT_REFERENCE.sub("", value)
        name = path.rpartition(".")[2].lower().replace("_", "-")
        if _contains_literal(path, rest) or (rest.strip() and _SECRET_VARIABLE.match(name)):
            raise InvalidInput("job_variables", f'"{path}" looks like a secret', hint)


def _by_name(value: Any) -> Any:
    """Return a JSON value in which ``{"name": A, "value": B}``, as in Kubernetes, has ``A: B``."""
    match value:
        case list():
            return list(map(_by_name, value))
        case dict():
            changed = {name: _by_name(each) for name, each in value.items()}
            if isinstance(value.get("name"), str) and "value" in value:
                return [changed, {value["name"]: changed["value"]}]
            return changed
        case _:
            return value


def _is_literal_header(name: str, value: str) -> bool:
    named = _SECRET_HEADER.search(name.lower()) and not references("headers", value)
    return bool(value.strip() and (named or _SECRET_VALUE.search(value)))


def _is_literal_param(path: str, value: str) -> bool:
    named = _SECRET_PARAM.fullmatch(path.rpartition(".")[2].lower().replace("-", "_"))
    known = references("params", value)
    return bool(value and ((named and not known) or _SECRET_VALUE.search(value)))


def literal_secret(fields: Mapping[str, Any]) -> str:
    """Return the name of the first field that contains a literal secret; "" if none does.

    Any text can contain one, such as a URL with ``?api_key=…``, or a command with ``--api-key …``.
    """
    for name, value in fields.items():
        texts = list(_texts(value, name))
        if isinstance(value, list):  # the next argument may be the value of an option
            texts.append((name, " ".join(text for _, text in texts)))
        if any(_contains_literal(path, text) for path, text in texts):
            return name
    return ""


def _contains_literal(path: str, text: str) -> bool:
    try:
        if _is_literal_param(path, text):
            return True
    except InvalidInput:  # a misspelt reference
        pass
    return _PASSWORD_IN_URL.search(text) is not None or any(
        _SECRET_HEADER.search((each[1] or each[2]).lower().replace("_", "-"))
        for each in _ASSIGNED.finditer(text)
    )


def replace_literals(
    field: SecretField,
    value: Any,
    reference: Callable[[str], str],
    path: str = "",
) -> Any:
    """Return headers or params with a reference in place of each literal secret.

    The literal secrets are the values that `refuse_literal_headers` or `refuse_literal_params`
    refuses. ``reference`` is a function: it gets the path of a secret, such as `auth.token`, and
    returns the replacement.
    """
    match value:
        case dict():
            return {
                name: replace_literals(
                    field, each, reference, f"{path}.{name}" if path else str(name)
                )
                for name, each in value.items()
            }
        case list():
            return [replace_literals(field, each, reference, path) for each in value]
        case str():
            try:
                is_literal = _LITERAL[field](path, value)
            except InvalidInput:  # the value is a misspelt reference
                return value
            return reference(path) if is_literal else value
        case _:
            return value


_LITERAL: dict[SecretField, Callable[[str, str], bool]] = {
    "headers": _is_literal_header,
    "params": _is_literal_param,
}


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield path, value
        case list():
            for each in value:
                yield from _texts(each, path)
        case dict():
            for name, each in value.items():
                yield from _texts(each, f"{path}.{name}" if path else str(name))
