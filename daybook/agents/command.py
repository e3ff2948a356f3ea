"""An agent that is a program: the answer is the program's standard output."""

from __future__ import annotations

import codecs
import errno
import json
import os
import signal
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from daybook.agents import base, json_text, process, template
from daybook.agents.base import AgentReply, AgentRequest, McpServers, refuse_model
from daybook.agents.capabilities import Capabilities
from daybook.errors import AgentFailed, AgentMisconfigured, AgentTimeout
from daybook.http.secrets import FilledSecrets
from daybook.processes import environment, locations

_ROLES = {"user": "User", "assistant": "Assistant"}
_TEMPORARY_ERRNOS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class CommandSettings(BaseModel):
    """How a command agent calls its program. The operator sets all fields, never an agent."""

    model_config = ConfigDict(extra="forbid")

    command: list[str] = Field(
        title="Command",
        description=(
            "The program and its arguments, one entry each; no shell interprets them. The prompt "
            "goes to standard input. If an argument contains {prompt}, the prompt goes there "
            "instead, where other users of the machine can see it. Other placeholders: {job}, "
            "{due}, {occurrence}, and {mcp_config}, the configuration file for MCP clients."
        ),
        examples=[["claude", "-p"], ["llm", "prompt", "--model", "small"]],
    )
    work_dir: str = Field(
        default="",
        title="Work directory",
        description=(
            "Working directory of the program, absolute or beginning with ~. Empty: a new, empty "
            "folder for each run, removed afterwards."
        ),
    )
    environment: list[str] = Field(
        default=list(environment.DEFAULT_NAMES),  # a value, not a factory: the form shows it
        title="Environment",
        description=(
            "Names of the worker's environment variables that the program may see; Daybook hides "
            "all others. Names only, never values. PREFECT_… and DAYBOOK_… are refused."
        ),
    )
    output: Literal["text", "json"] = Field(
        default="text",
        title="Output",
        description=(
            "Format of the program's output: text, or one JSON value. With json, any other output "
            "is a failure."
        ),
    )

    history: Literal["transcript", "none"] = Field(
        default="transcript",
        title="History",
        description=(
            "How the program receives the conversation before the prompt: as a transcript on "
            "standard input, or not at all. With {prompt} it receives only the prompt."
        ),
    )

    tools: list[str] = Field(
        default=[],
        title="Tools",
        description=(
            "Names of the tool servers in the file {mcp_config}, each with all of its tools; "
            "daybook is Daybook's own. Daybook does not limit what else the program can do."
        ),
        examples=[["search", "daybook"]],
    )
    capabilities: Capabilities = []

    @field_validator("command")
    @classmethod
    def _usable(cls, value: list[str]) -> list[str]:
        template.check(value)
        return value

    @field_validator("environment")
    @classmethod
    def _passable(cls, value: list[str]) -> list[str]:
        environment.check(value)
        return value

    @field_validator("tools")
    @classmethod
    def _servers(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and not template.takes_config(info.data.get("command", ["{mcp_config}"])):
            raise ValueError(
                "need {mcp_config} in an argument of the command: the program finds its tool "
                "servers in that file"
            )
        return base.check_server_entries(value)

    @field_validator("work_dir")
    @classmethod
    def _absolute(cls, value: str) -> str:
        locations.check(value)
        return value


@dataclass(frozen=True)
class CommandAgent:
    """Runs the program once for each request, in a process group of its own.

    Exit code 0 is an answer, any other raises `AgentFailed`. Output beyond
    `process.MAX_OUTPUT_BYTES` is dropped, and the reply says so. `AgentMisconfigured` is raised
    before anything runs. When `answer` ends, the program and all that it started have ended.

    The file of the MCP configuration may hold secrets: it is in a folder of its own that only this
    user can read, and is removed when `answer` ends.
    """

    name: str
    settings: CommandSettings

    async def answer(self, request: AgentRequest) -> AgentReply:
        refuse_model(self.name, "a command", request.model)
        variables = environment.select(self.settings.environment)
        with self._folder() as folder, self._config(request) as config:
            completed = await self._run(request, folder, variables, config)
        hidden = _SecretHider(variables, request.servers or McpServers({}))
        text = _text(completed)
        if completed.timed_out:
            message = hidden.of_error(_marked(text, completed))
            raise AgentTimeout(request.timeout, message)
        if completed.code != 0:
            message = f"{self._program} {_end(completed.code)}{_last_words(completed.errors)}"
            raise AgentFailed(
                hidden.of_error(message),
                hidden.of_error(_marked(text, completed)),
            )
        text = hidden.of_answer(text)
        result = self._parsed(text, completed) if self.settings.output == "json" else None
        return AgentReply(text=text, result=result, agent=self.name, cut=_cut(completed))

    @property
    def _program(self) -> str:
        return Path(self.settings.command[0]).name

    async def _run(
        self, request: AgentRequest, folder: str, variables: dict[str, str], config: str
    ) -> process.ProgramResult:
        try:
            program = locations.find_program(self.settings.command[0], folder, variables)
        except ValueError as error:
            raise self._wrong(str(error)) from None
        arguments = template.fill(self.settings.command, _values(request) | {"mcp_config": config})
        by_argument = template.takes_prompt(self.settings.command)
        text = request.prompt if by_argument else self._stdin_text(request)
        prompt = text.encode(errors="replace")
        try:
            return await process.run(
                [program, *arguments[1:]],
                folder=folder,
                environment=variables,
                stdin=None if by_argument else prompt,
                seconds=request.timeout,
            )
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise self._wrong(
                    f"the prompt ({len(prompt)} bytes) is too long for an argument; remove "
                    "{prompt} from the command to send it to standard input"
                ) from None
            if error.errno in _TEMPORARY_ERRNOS:
                raise AgentFailed(
                    f"{self._program} could not be started: {error.strerror}"
                ) from None
            raise self._wrong(f"{program} cannot be run: {error.strerror}") from None
        except ValueError as error:  # a zero byte, or half a character
            raise AgentFailed(f"the prompt cannot be passed as an argument: {error}") from None

    def _stdin_text(self, request: AgentRequest) -> str:
        if not request.history or self.settings.history == "none":
            return request.prompt
        # Indented, so that no message can look like the start of another or like the question.
        transcript = "\n\n".join(
            f"{_ROLES[each.role]}:\n{textwrap.indent(each.content, '    ')}"
            for each in request.history
        )
        return (
            f"Our conversation so far, each message indented:\n\n{transcript}\n\n"
            f"Now answer this:\n\n{request.prompt}"
        )

    @contextmanager
    def _folder(self) -> Iterator[str]:
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(
                    locations.run_folder(self.settings.work_dir, prefix="daybook-agent-")
                )
            except ValueError as error:
                raise self._wrong(str(error)) from None
            yield folder

    @contextmanager
    def _config(self, request: AgentRequest) -> Iterator[str]:
        """Yield the path of the MCP configuration file; empty if the command does not ask for
        one.
        """
        if not template.takes_config(self.settings.command):
            yield ""
            return
        config_json = json.dumps(request.servers.config if request.servers else {"mcpServers": {}})
        # Not in the work folder: that may be the operator's, and other users may read it.
        with locations.temporary_folder("daybook-mcp-") as folder:
            path = os.path.join(folder, "mcp.json")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(config_json)
            yield path

    def _parsed(self, text: str, ended: process.ProgramResult) -> Any:
        if ended.dropped:
            raise AgentFailed(f"the answer is longer than {process.MAX_OUTPUT_BYTES} bytes", text)
        try:
            return json_text.read(text)
        except ValueError as error:
            raise AgentFailed(f"the answer is not JSON: {error}", text) from None

    def _wrong(self, problem: str) -> AgentMisconfigured:
        return AgentMisconfigured(f'agent "{self.name}": {problem}')


@dataclass(frozen=True)
class _SecretHider:
    """Replaces the secrets that a program received with their names."""

    variables: dict[str, str] = field(repr=False)
    servers: McpServers = field(repr=False)

    def of_error(self, text: str) -> str:
        text = environment.redact_values(text, self.variables)
        return self.of_answer(text)

    def of_answer(self, text: str) -> str:
        # Some variables belong to its servers only; those that are not secret may be shown.
        text = environment.redact_secrets(text, {**self.servers.variables, **self.variables})
        return FilledSecrets(set(self.servers.secrets)).hide(text)


def _values(request: AgentRequest) -> dict[str, str]:
    due = request.due.astimezone(UTC).isoformat().replace("+00:00", "Z") if request.due else ""
    return {
        "prompt": request.prompt,
        "job": request.job or "",
        "due": due,
        "occurrence": request.occurrence,
    }


def _text(ended: process.ProgramResult) -> str:
    # An incremental decoder leaves out an incomplete character at the cut.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(ended.output, final=not ended.dropped).rstrip("\r\n")


def _cut(ended: process.ProgramResult) -> str:
    return f"{ended.dropped} more bytes were printed" if ended.dropped else ""


def _marked(text: str, ended: process.ProgramResult) -> str:
    """Return the text for an error, which has no other field to say that it was cut."""
    return f"{text}\n[cut here: {_cut(ended)}]" if ended.dropped else text


def _last_words(errors: bytes) -> str:
    text = errors.decode(errors="replace").strip()[-2000:]
    return f"; it said: {text}" if text else "; it said nothing on standard error"


def _end(code: int) -> str:
    if code > 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
