"""Agents that this machine can run, found without a question to any of them.

`find` returns them in the order in which `daybook up` prefers them for the agent `default`:

1. a model of a provider whose key is in the environment, and whose SDK is installed
2. a program of `PROGRAMS` on the PATH that answers `--version`
3. a local server of `SERVERS` that lists a model on its usual port

A program gets nothing but `--version`, and a server nothing but GET requests of its list of models.
All of them are asked at the same time. Each has `PROGRAM_SECONDS` or `SERVER_SECONDS` to answer.

To add a program or a server, add a row to its table.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from daybook import json_text, repository
from daybook.agents import presets, process, providers
from daybook.agents.providers import FoundKey
from daybook.http.bodies import BoundedBody
from daybook.processes import environment, locations

PROGRAM_SECONDS = 5.0
"""How long a program may take to answer: those in JavaScript start slowly."""
SERVER_SECONDS = 2.0
"""How long a server may take to answer."""
MAX_LIST_BYTES = 1024 * 1024
"""Maximum length of a server's list of models; a longer list counts as no answer."""
MAX_VERSION_CHARACTERS = 40
MAX_MODEL_CHARACTERS = 200

MACHINE_VARIABLE = "_DAYBOOK_MACHINE"
"""Environment variable with another PATH and other ports of servers, in JSON. Only tests set it.

With ``{"path": "", "ports": {}}``, neither a program nor a server is found.
"""


@dataclass(frozen=True)
class KnownProgram:
    """A program that can be an agent, with its settings: those of a preset, or a ``command``.

    The command reads the prompt from standard input, prints only the answer to standard output, and
    gives the program no rights besides its own defaults. ``environment`` has the names of further
    variables for it. ``hint`` says what else the program needs. `up` does not choose a program that
    is not ``automatic``.
    """

    name: str
    title: str
    preset: str = ""
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    hint: str = ""
    automatic: bool = True


PROGRAMS = (
    KnownProgram("claude", "Claude Code", preset="claude-code"),
    KnownProgram("codex", "Codex", preset="codex"),
    KnownProgram(
        "gemini",
        "Gemini CLI",
        # It has no terminal, so it reads the prompt from standard input; `-p` requires a text.
        command=("gemini", "--output-format", "text"),
        environment=("GEMINI_API_KEY",),
        hint="it may refuse a folder that it does not trust; to set a trusted one: "
        "daybook agents edit NAME --work-dir FOLDER",
    ),
    # Without a terminal, it reads the message from standard input, and prints only texts.
    KnownProgram(
        "opencode",
        "opencode",
        command=("opencode", "run"),
        hint="it runs commands and changes files without asking",
        automatic=False,
    ),
)


@dataclass(frozen=True)
class KnownServer:
    """A local server with an OpenAI-compatible API below ``/v1``.

    ``paths`` are the addresses of its list of models, the most detailed one first. If other
    programs often use its ``port``, ``owner`` is the owner that the server names for its models.
    """

    title: str
    port: int
    paths: tuple[str, ...]
    owner: str = ""


SERVERS = (
    KnownServer("Ollama", 11434, ("/api/tags",)),
    KnownServer("LM Studio", 1234, ("/api/v0/models", "/v1/models")),
    KnownServer("llama.cpp", 8080, ("/v1/models",), owner="llamacpp"),
)


@dataclass(frozen=True)
class AgentCandidate:
    """An agent that this machine can run.

    ``why`` says how it was found. ``kind`` and ``settings`` are those of the agent; the settings
    may contain a key. ``hint`` says what else it needs. ``calls_tools`` is true for a model that
    is known to call tools.
    """

    title: str
    why: str
    kind: str
    settings: Mapping[str, Any] = field(repr=False)
    hint: str = ""
    calls_tools: bool = False

    def __str__(self) -> str:
        return f"{self.title} ({self.why})"


@dataclass(frozen=True)
class Found:
    """The candidates, and the keys that are not usable because their SDKs are not installed."""

    candidates: Sequence[AgentCandidate]
    without_sdk: Sequence[FoundKey]

    @property
    def notes(self) -> list[str]:
        """Return what keeps each key in `without_sdk` from being used, and the fix."""
        return [
            f"{key.variable} is set, but the SDK of its provider is not installed: "
            f"{repository.install_command(key.missing_extra)}"
            for key in self.without_sdk
        ]


@dataclass(frozen=True)
class Machine:
    """What `find` needs to know about a machine.

    - ``which`` returns the path of a program on the PATH, or None.
    - ``version`` returns what the program at a path prints for `--version`; "" if it fails.
    - ``get`` returns the JSON at a URL; None if there is none.
    - ``ports`` are the ports of the servers, by title.
    """

    environment: Mapping[str, str]
    which: Callable[[str], str | None]
    version: Callable[[str], Awaitable[str]]
    get: Callable[[str], Awaitable[Any]]
    ports: Mapping[str, int]


def this_machine() -> Machine:
    """Return the machine of this process, or the one that `MACHINE_VARIABLE` describes."""
    given = json.loads(os.environ.get(MACHINE_VARIABLE, "{}"))
    path = given.get("path", environment.search_path())

    def which(name: str) -> str | None:
        found = shutil.which(name, path=path)
        return os.path.abspath(found) if found else None

    async def version(program: str) -> str:
        return await _version(program, path)

    usual = {each.title: each.port for each in SERVERS}
    return Machine(os.environ, which, version, _get, given.get("ports", usual))


async def find(machine: Machine, *, only_first: bool = False) -> Found:
    """Return all candidates of the machine.

    With ``only_first``, return those that `up` may choose without a question; all but the first may
    be missing.
    """
    keys = providers.find_keys(machine.environment)
    models = {each.model: each for each in reversed(keys) if not each.missing_extra}
    found = [
        _of_key(models[model])
        for model in dict.fromkeys(each.model for each in keys)
        if model in models
    ]
    if not (found and only_first):
        programs = [each for each in PROGRAMS if each.automatic or not only_first]
        probes = [_ask_program(machine, each) for each in programs]
        probes += [_ask_server(machine, each) for each in SERVERS]
        found += [each for each in await asyncio.gather(*probes) if each is not None]
    return Found(found, [each for each in keys if each.missing_extra])


def _of_key(key: FoundKey) -> AgentCandidate:
    why = f"{key.variable} is set; Prefect stores the key encrypted"
    settings = {"model": key.model, "api_key": key.key}
    return AgentCandidate(key.model, why, "model", settings, calls_tools=True)


async def _ask_program(machine: Machine, program: KnownProgram) -> AgentCandidate | None:
    path = machine.which(program.name)
    if path is None or locations.script_problem(path):
        return None
    try:
        async with asyncio.timeout(PROGRAM_SECONDS):
            printed = await machine.version(path)
    except TimeoutError:
        return None
    if not (version := _version_in(printed)):
        return None
    if program.preset:
        settings = presets.apply(program.preset, {})
    else:
        names = [*environment.DEFAULT_NAMES, *program.environment]
        settings = {"command": [*program.command], "environment": names}
    settings["command"] = [path, *settings["command"][1:]]
    why = f"{program.name} {version} is on the PATH"
    return AgentCandidate(program.title, why, "command", settings, program.hint)


def _version_in(printed: str) -> str:
    """Return the first word that looks like a version, such as 2.1.3; "" if there is none."""
    for word in printed.split():
        number = word.removeprefix("v").rstrip(",;)")
        if number[:1].isdigit() and "." in number and number.isprintable():
            return number[:MAX_VERSION_CHARACTERS]
    return ""


async def _ask_server(machine: Machine, server: KnownServer) -> AgentCandidate | None:
    if (port := machine.ports.get(server.title)) is None:
        return None
    models = list[_LocalModel]()
    try:
        async with asyncio.timeout(SERVER_SECONDS):
            for path in server.paths:
                if models := _models_in(
                    await machine.get(f"http://127.0.0.1:{port}{path}"), server
                ):
                    break
    except TimeoutError:
        return None
    if not models:
        return None
    # The sort keeps the server's own order among equals.
    model = min(models, key=lambda each: (not each.has_tools, not each.is_loaded))
    why = f"{server.title} answers on 127.0.0.1:{port}"
    why += "; the model can call tools" if model.has_tools else ""
    settings = {"model": model.name, "base_url": f"http://127.0.0.1:{port}/v1"}
    return AgentCandidate(model.name, why, "model", settings, calls_tools=model.has_tools)


@dataclass(frozen=True)
class _LocalModel:
    name: str
    has_tools: bool
    is_loaded: bool


def _models_in(listing: Any, server: KnownServer) -> list[_LocalModel]:
    """Return the models of a list that can answer a prompt on this machine.

    Ollama lists models under `models`, with a `name`; the other servers under `data`, with an `id`.
    """
    if not isinstance(listing, dict):
        return []
    items = listing.get("data") or listing.get("models")
    models = []
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict) or (server.owner and item.get("owned_by") != server.owner):
            continue
        name, given = item.get("id") or item.get("name"), item.get("capabilities")
        can = (
            {each for each in given if isinstance(each, str)} if isinstance(given, list) else set()
        )
        if not _is_name(name) or _is_embedding(name, item, can):
            continue
        if item.get("remote_host"):  # Ollama passes the prompts of this model on to the internet
            continue
        has_tools = bool(can & {"tools", "tool_use"})
        models.append(_LocalModel(name, has_tools, item.get("state") == "loaded"))
    return models


def _is_name(name: object) -> TypeGuard[str]:
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_MODEL_CHARACTERS
        and name.isprintable()
        and not any(letter.isspace() for letter in name)
    )


def _is_embedding(name: str, item: Mapping[str, Any], can: set[str]) -> bool:
    """Return whether the model returns numbers, and no text.

    Older servers list no capabilities; then the name or the family shows it.
    """
    details = item.get("details")
    family = str(details.get("family", "")) if isinstance(details, dict) else ""
    shown = f"{name} {family}".lower()
    return (
        "embedding" in can
        or item.get("type") in ("embedding", "embeddings")
        or any(word in shown for word in ("embed", "bert", "rerank"))
    )


async def _version(program: str, path: str) -> str:
    """Return the output of ``program --version``, which gets no key; "" if it fails.

    Afterwards no process of its group is left.
    """
    variables = environment.select(environment.DEFAULT_NAMES) | {"PATH": path}
    try:
        with locations.temporary_folder("daybook-probe-") as folder:
            result = await process.run(
                [program, "--version"],
                folder=folder,
                environment=variables,
                stdin=None,
                seconds=PROGRAM_SECONDS,
                grace_seconds=0.0,
            )
    except (OSError, ValueError):
        return ""
    return "" if result.code or result.timed_out else result.output.decode(errors="replace")


async def _get(url: str) -> Any:
    """Return the JSON at a local URL, without a proxy or a redirect; None if there is none."""
    import httpx

    headers = {"Accept-Encoding": "identity"}
    try:
        async with (
            # Without certificates, which are slow to read.
            httpx.AsyncClient(trust_env=False, verify=False, timeout=SERVER_SECONDS) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            body = BoundedBody(response.headers, MAX_LIST_BYTES)
            if response.status_code != httpx.codes.OK:
                return None
            async for part in response.aiter_raw():
                if not body.add(part):
                    break
    except httpx.HTTPError:
        return None
    try:
        return None if body.cut else json_text.read(bytes(body))
    except ValueError:
        return None


def offline_steps() -> list[tuple[str, str]]:
    """Return the commands after which the agent `default` is not offline, each with its purpose.

    The model of the first command is that of a key in the environment. If there is no key, it is a
    model of OpenAI, whose SDK is always installed.
    """
    replace = "daybook agents add default --replace"
    key = next(iter(providers.find_keys(os.environ)), None)
    steps = []
    if key is None:
        model = providers.DEFAULT_MODELS["OPENAI_API_KEY"]
        steps.append(("ask a model", f"{replace} --model {model} --key-stdin"))
    else:
        if key.missing_extra:
            steps.append(("install its SDK", repository.install_command(key.missing_extra)))
        steps.append(("ask a model", f"{replace} --model {key.model} --key-env {key.variable}"))
    ollama = SERVERS[0]
    url = f"http://127.0.0.1:{ollama.port}/v1"
    return [
        *steps,
        ("ask Claude Code", f"{replace} --preset claude-code"),
        (f"ask {ollama.title}", f"{replace} --model MODEL --base-url {url}"),
    ]
