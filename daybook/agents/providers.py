"""Construction of a pydantic-ai model, with its key and address, from a model's name.

Daybook sends a key to one destination only. A key that is stored with the agent goes to the agent's
provider and base URL. A key in the worker's environment goes to its provider's own address. So if
an agent has a key or a base URL, a job may request only another model of the same provider. If an
agent has a base URL but no stored key, Daybook sends no real key there.

The functions import pydantic-ai when they are called, because the import takes over a second.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from daybook import repository
from daybook.errors import AgentMisconfigured

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.providers import Provider

    from daybook.agents.model_settings import ModelSettings

DEFAULT_MODELS = {
    "OPENAI_API_KEY": "openai:gpt-6-luna",
    "ANTHROPIC_API_KEY": "anthropic:claude-haiku-5-5",
    "GOOGLE_API_KEY": "google:gemini-3.8-flash",
    "GEMINI_API_KEY": "google:gemini-3.8-flash",
}
"""Models by environment variable.

At the first start, `find_keys` searches these variables for a key. Daybook then uses the model of
the variable that has a key; it is a small model of the key's provider.
"""

EXTRAS = {"anthropic": "anthropic", "google": "google.genai"}
"""SDK modules by the extra of Daybook that installs them.

The SDK for OpenAI and compatible providers is always installed.
"""

PLACEHOLDER_KEY = "no-key"
"""Key that Daybook sends to a base URL if no key is stored. The clients require a key."""

MIN_SIMILARITY = 0.75
"""Minimum similarity (0 to 1) of an unknown provider and the name that an error suggests."""

_CHAT = ("openai", "openai-chat")
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9_]*_(?:KEY|TOKEN|BASE_URL)\b")
_EXTRA = re.compile(r"pydantic-ai-slim\[([a-z0-9-]+)\]")


@dataclass(frozen=True)
class FoundKey:
    """A key in this process's environment, and the model for it.

    If an extra of Daybook has to be installed for the model, ``missing_extra`` is its name,
    otherwise "".
    """

    variable: str
    model: str
    key: str = field(repr=False)
    missing_extra: str = ""


def find_keys(environment: Mapping[str, str]) -> list[FoundKey]:
    """Return the usable keys in the variables of `DEFAULT_MODELS`.

    The keys of providers whose SDK is installed come first. Import no SDK.
    """
    found = []
    for variable, model in DEFAULT_MODELS.items():
        key = environment.get(variable, "").strip()
        if key and key.isascii() and key.isprintable() and " " not in key:
            found.append(FoundKey(variable, model, key, _missing_extra(model)))
    return sorted(found, key=lambda each: bool(each.missing_extra))


def models_with_sdk() -> list[str]:
    """Return the models of `DEFAULT_MODELS` whose SDK is installed."""
    return [each for each in dict.fromkeys(DEFAULT_MODELS.values()) if not _missing_extra(each)]


def _missing_extra(model: str) -> str:
    """Return the extra of Daybook that has to be installed for a model of `DEFAULT_MODELS`."""
    extra = model.partition(":")[0]
    return extra if extra in EXTRAS and not _is_importable(EXTRAS[extra]) else ""


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that contains the module is missing
        return False


def variable(model: str) -> str:
    """Return the first variable of `DEFAULT_MODELS` for the provider of ``model``, or ""."""
    provider = model.partition(":")[0].partition("-")[0]
    fits = (name for name, first in DEFAULT_MODELS.items() if first.startswith(f"{provider}:"))
    return next(fits, "")


def split_model(model: str, base_url: str = "") -> tuple[str, str]:
    """Return the provider and the name of a model.

    The provider is "" unless ``model`` starts with a known provider. A colon separates the two, but
    a name may also contain a colon, such as ``llama3:8b``. With a base URL, ``mistral:7b`` is such
    a name, unless the provider's installed SDK accepts a base URL. The SDKs of `EXTRAS` accept a
    base URL, so their prefixes are providers even if the SDK is missing.
    """
    from pydantic_ai.providers import infer_provider_class

    before, colon, name = model.partition(":")
    if not (colon and before and name):
        return "", model
    try:
        cls = infer_provider_class(before)
    except ValueError:
        return "", model
    except ImportError as error:  # the provider is known, but its SDK is not installed
        return ("", model) if base_url and _extra(error) not in EXTRAS else (before, name)
    if base_url and "base_url" not in inspect.signature(cls.__init__).parameters:
        return "", model
    return before, name


def is_own(settings: ModelSettings, wanted: str) -> bool:
    """Return whether the model that the job requests is the agent's own model.

    Raise `AgentMisconfigured` for an unknown provider, and for a model that the job may not
    request.
    """
    return _resolve(settings, wanted) == _resolve(settings, "")


def check(settings: ModelSettings, wanted: str = "") -> None:
    """Raise `AgentMisconfigured` if the provider is unknown, or if its SDK is not installed.

    Raise it also if the provider does not accept the agent's base URL or key, or if the job may not
    request ``wanted`` in place of the agent's own model. This check needs no key, because the
    worker that has the key may run on another machine.
    """
    from pydantic_ai.providers import infer_provider_class

    provider, _ = _resolve(settings, wanted)
    if ":" in wanted and not settings.base_url and not split_model(wanted)[0]:
        raise AgentMisconfigured(
            f'"{wanted}" names no known provider; for a model of {provider}, use its name alone, '
            f'or "{provider}:{wanted}" if the name contains a colon'
        )
    if not provider:
        return
    try:
        cls = infer_provider_class(provider)
    except ImportError as error:
        raise _missing_package_error(provider, error) from None
    _arguments(provider, cls, settings)


def model(settings: ModelSettings, wanted: str = "") -> Model:
    """Build the model of these settings, or the model ``wanted`` that the job requests instead.

    Raise `AgentMisconfigured` if the operator has to change the agent, the job or the worker's
    installation.
    """
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model
    from pydantic_ai.providers import infer_provider_class

    provider, name = _resolve(settings, wanted)
    try:
        if not provider:
            return _openai_compatible_model(name, settings)
        cls = infer_provider_class(provider)
        provider_client: Provider[Any] = cls(**_arguments(provider, cls, settings))
        if settings.base_url and provider in _CHAT:
            return _chat_model(name, provider_client)
        built = infer_model(f"{provider}:{name}", lambda _: provider_client)
        is_plain_chat = type(built).__name__ == "OpenAIChatModel"
        return _chat_model(name, provider_client) if is_plain_chat else built
    except ImportError as error:
        raise _missing_package_error(provider, error) from None
    except UserError as error:
        raise _unusable_error(provider, error) from None


def has_base_url(settings: ModelSettings, wanted: str = "") -> bool:
    """Return whether the model is at a base URL: the agent's, or one of the worker's environment.

    Such a server may be another than the provider's own.
    """
    provider = _resolve(settings, wanted)[0].partition("-")[0].upper()
    return bool(settings.base_url or os.environ.get(f"{provider}_BASE_URL"))


def secrets(settings: ModelSettings, model: Model) -> list[str]:
    """Return the keys that no message may contain.

    These are the agent's stored key, the client's keys, and the keys in the variables of
    `DEFAULT_MODELS`.
    """
    client = getattr(getattr(model, "provider", None), "client", None)
    client_keys = [getattr(client, name, None) for name in ("api_key", "auth_token")]
    variable_keys = [os.environ.get(name) for name in DEFAULT_MODELS]
    return [
        value
        for value in (settings.api_key.get_secret_value(), *client_keys, *variable_keys)
        if isinstance(value, str) and value and value != PLACEHOLDER_KEY
    ]


def has_no_key(model: Model) -> bool:
    """Return whether the model's client has only `PLACEHOLDER_KEY`."""
    client = getattr(getattr(model, "provider", None), "client", None)
    return getattr(client, "api_key", None) == PLACEHOLDER_KEY


def is_unfinished(model: Model, text: str) -> bool:
    """Return whether ``text``, which arrived without a finish reason, is incomplete.

    pydantic-ai treats a stream as complete if a connection to Anthropic is closed in the middle.
    Google sends a finish reason only at the end; without text its response contains no answer.
    """
    return model.system == "anthropic" or (model.system.startswith("google") and bool(text))


def _resolve(settings: ModelSettings, wanted: str) -> tuple[str, str]:
    own, name = split_model(settings.model, settings.base_url)
    if not own and not settings.base_url:
        raise _unknown(settings.model)
    if not wanted:
        return own, name
    other, name = split_model(wanted, settings.base_url)
    if other in ("", own):
        return own, name
    if settings.base_url or settings.api_key.get_secret_value():
        raise AgentMisconfigured(
            f'the job requests the model "{wanted}", but the agent\'s key or base '
            f'URL is for {own or "an OpenAI-compatible model"}; use a name without "{other}:", '
            f"or an agent for {other}"
        )
    return other, name


def _openai_compatible_model(name: str, settings: ModelSettings) -> Model:
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    key = settings.api_key.get_secret_value() or PLACEHOLDER_KEY
    provider = OpenAICompatibleProvider(
        "openai-compatible", base_url=settings.base_url, api_key=key
    )
    return _chat_model(name, provider)


def _chat_model(name: str, provider: Provider[Any]) -> Model:
    from daybook.agents.compatible_model import CompatibleChatModel

    return CompatibleChatModel(name, provider=provider)


def _arguments(name: str, cls: type[Provider[Any]], settings: ModelSettings) -> dict[str, str]:
    given = {"base_url": settings.base_url, "api_key": settings.api_key.get_secret_value()}
    if settings.base_url:
        given["api_key"] = given["api_key"] or PLACEHOLDER_KEY
    takes = inspect.signature(cls.__init__).parameters
    for argument, value in given.items():
        if value and argument not in takes:
            raise AgentMisconfigured(
                f'the provider "{name}" accepts no {argument}, because its SDK reads the worker\'s '
                f"environment; remove the {argument} from the agent"
            )
    return {argument: value for argument, value in given.items() if value}


def _unknown(model: str) -> AgentMisconfigured:
    from pydantic_ai.models import KnownModelName

    before, colon, name = model.partition(":")
    names = {str(each).partition(":")[0] for each in get_args(KnownModelName.__value__)}
    near = (
        difflib.get_close_matches(before, sorted(names), n=1, cutoff=MIN_SIMILARITY)
        if colon
        else []
    )
    hint = f"; did you mean {near[0]}:{name}?" if near else ""
    return AgentMisconfigured(
        f'"{model}" names no known provider; put one before the name, '
        f"such as openai:, anthropic: or google:{hint}"
    )


def _missing_package_error(provider: str, error: ImportError) -> AgentMisconfigured:
    extra = _extra(error)
    if extra in EXTRAS:
        what = f"run {repository.install_command(extra)}"
    else:
        what = f"install {f'pydantic-ai-slim[{extra}]' if extra else f'it ({error})'}"
    return AgentMisconfigured(
        f'the SDK of the provider "{provider}" is not installed; {what} where the worker runs'
    )


def _extra(error: ImportError) -> str:
    """Return the extra of pydantic-ai that the error names; "" if it names none."""
    match = _EXTRA.search(str(error))
    return match[1] if match else ""


def _unusable_error(provider: str, error: Exception) -> AgentMisconfigured:
    variables = list(dict.fromkeys(_VARIABLE.findall(str(error))))
    if any(each.endswith(("KEY", "TOKEN")) for each in variables):
        return AgentMisconfigured(
            f"there is no key for {provider}; store one with the agent "
            f"(`daybook agents add --replace … --key-stdin`), or set {' or '.join(variables)} in "
            "the worker's environment"
        )
    return AgentMisconfigured(f"{provider}: {error}")
