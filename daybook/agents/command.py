"""An agent that runs a program.

Its answer is the program's standard output, or a result printed there.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import json
import logging
import os
import textwrap
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from daybook import json_text
from daybook.agents import base, partial_text, presets, process, program_folders, template
from daybook.agents.base import (
    AgentReply,
    AgentRequest,
    Capabilities,
    McpServers,
    ProgramFolder,
    refuse_model,
)
from daybook.agents.journal import PlannedStep, StepPosition, StepReply
from daybook.agents.program_sandbox import ProgramSandbox, to_start
from daybook.agents.step_lines import StepLines
from daybook.agents.step_recorder import MAX_LINE_BYTES, StepRecorder
from daybook.errors import AgentFailed, AgentMisconfigured, AgentTemporary, AgentTimeout
from daybook.http.secrets import FilledSecrets
from daybook.markers import Marker
from daybook.policies.compression import (
    Compression,
    HistoryTokens,
    SummarizeAfterMessages,
    SummarizeAfterTokens,
)
from daybook.policies.sandboxes import check_hosts
from daybook.processes import environment, group, locations
from daybook.processes.ending import wait_shielded
from daybook.processes.pipes import LinePipe
from daybook.redaction import redact
from daybook.validation import raising_pydantic_error

log = logging.getLogger(__name__)

MAX_PRINTED_CHARACTERS = 2_000
"""Maximum length of the end of a program's output in an error, in characters."""

MAX_MODEL_CHARACTERS = 200

_ROLES = {"user": "User", "assistant": "Assistant"}


class CommandSettings(BaseModel):
    """Settings of a command agent. Only the operator sets them, never an agent."""

    model_config = ConfigDict(extra="forbid")

    command: list[str] = Field(
        title="Command",
        description=(
            "The program and its arguments, one entry each; no shell interprets them. The program "
            "gets the prompt on standard input, or in place of {prompt} in an argument, where "
            "other users of the machine can see it. Other placeholders: {job}, {due}, "
            "{occurrence}, and {mcp_config}, the path of its MCP configuration file."
        ),
        examples=[["claude", "-p"], ["llm", "prompt", "--model", "small"]],
    )
    work_dir: str = Field(
        default="",
        title="Work directory",
        description=(
            "Working directory of the program; an absolute path, or one that begins with ~. If "
            "empty, each run gets a new, empty folder, which is removed afterwards. The work "
            "directory of a job takes precedence."
        ),
    )
    environment: Annotated[list[str], Marker(option="env")] = Field(
        # This is a value and not a factory, because Prefect's form shows the value.
        default=list(environment.DEFAULT_NAMES),
        title="Environment",
        description=(
            "Names of the worker's environment variables that the program gets. Names only, never "
            "values. PREFECT_… and DAYBOOK_… are refused."
        ),
    )
    output: presets.OutputFormat = Field(
        default="text",
        title="Output",
        description=(
            "Format of the program's output: text, or one JSON value. With json, the run fails if "
            "the output is anything else. With claude-code and codex, the program prints its steps "
            "as JSON lines, which Daybook records, and the answer is their result."
        ),
    )

    history: Literal["transcript", "none"] = Field(
        default="transcript",
        title="History",
        description=(
            "How the program gets the earlier messages of the session: as a transcript on standard "
            "input, or not at all. With {prompt} in an argument, it gets only the prompt."
        ),
    )

    sandbox_readable: list[str] = Field(
        default=[],
        title="Readable in a sandbox",
        description="Path that the program may read in a sandbox: its installation, if that is in "
        "the user's home. An absolute path, or one that begins with ~.",
    )
    sandbox_writable: list[str] = Field(
        default=[],
        title="Writable in a sandbox",
        description="Path that the program may also write to in a sandbox, such as the folder with "
        "its login.",
    )
    sandbox_hosts: list[str] = Field(
        default=[],
        title="Hosts in a sandbox",
        description="Host that the program needs in a sandbox: api.example.org, *.example.org or "
        "example.org:8443; all, for the network of this machine.",
    )
    tools: list[str] = Field(
        default=[],
        title="Tools",
        description=(
            "Names of the tool servers in the file {mcp_config}, each with all of its tools; "
            "daybook is Daybook's own server. Daybook does not limit what else the program does."
        ),
        examples=[["search", "daybook"]],
    )
    summarize_after_messages: SummarizeAfterMessages = 0
    summarize_after_tokens: SummarizeAfterTokens = 0
    history_tokens: HistoryTokens = 0
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
        servers = [each for each in value if not base.is_folder_entry(each)]
        if servers and not template.takes_config(info.data.get("command", ["{mcp_config}"])):
            raise ValueError(
                "need {mcp_config} in an argument of the command; add it, so that the program "
                "finds its tool servers"
            )
        return base.check_server_entries(value)

    @field_validator("sandbox_readable", "sandbox_writable")
    @classmethod
    def _absolute_paths(cls, value: list[str]) -> list[str]:
        for each in value:
            if not each.startswith(("/", "~")):
                raise ValueError(f'"{each}" is relative; use an absolute path, or one with ~')
        return value

    @field_validator("sandbox_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        with raising_pydantic_error():
            check_hosts(tuple(value))
        return value

    @field_validator("work_dir")
    @classmethod
    def _absolute(cls, value: str) -> str:
        locations.check(value)
        return value


@dataclass(frozen=True)
class CommandAgent:
    """Agent that runs a program once for each request, in a process group of its own.

    If the setting `output` names a preset, `step_recorder` records the program's steps as the
    program prints them, and the answer is the text of the program's result. If there is no result,
    or if the result is an error, `answer` raises `AgentFailed`.

    `answer` also raises `AgentFailed` for any exit code other than 0, and for an answer that should
    be JSON but is not, or is too long. It raises `AgentTimeout` after the timeout, and
    `AgentTemporary` if the system cannot start the program now. The reply omits text beyond
    `process.MAX_OUTPUT_BYTES`; then ``cut`` is not empty. If `answer` raises `AgentMisconfigured`,
    it has started nothing. When it returns, no process of the program's group is left. It does not
    end a process that has created a session of its own.

    The MCP configuration file may contain secrets, so it is in a folder of its own that only this
    user can read. `answer` removes the folder at its end.
    """

    name: str
    settings: CommandSettings
    is_program: ClassVar[bool] = True

    @property
    def tools(self) -> list[str]:
        return self.settings.tools

    @property
    def compression(self) -> Compression:
        return Compression.of(self.settings)

    def takes_pictures(self, model: str) -> bool:
        return True

    def check_model(self, model: str) -> None:
        refuse_model(self.name, "a command", model)

    async def answer(self, request: AgentRequest) -> AgentReply:
        sandbox = request.sandbox
        try:
            reply = await self._answer(request)
        except (AgentFailed, AgentTimeout) as error:
            if sandbox is not None and (refused := sandbox.warnings()):
                error.args = ("; ".join([str(error), *refused]),)
            raise
        refused = sandbox.warnings() if sandbox else ()
        return replace(reply, warnings=(*reply.warnings, *refused))

    async def _answer(self, request: AgentRequest) -> AgentReply:
        self.check_model(request.model)
        variables = environment.select(self.settings.environment)
        hidden = _SecretHider(variables, request.servers or McpServers({}))
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(self._folder(request))
            config = stack.enter_context(self._config(request))
            given, warnings = await stack.enter_async_context(
                self._program_folders(request, folder)
            )
            variables = variables | _variables_of_run(request)
            request = await _with_reported(request, given)
            if self.settings.output in presets.PRESETS:
                reply = await self._answer_with_steps(request, folder, variables, config, hidden)
                return replace(reply, warnings=(*warnings, *reply.warnings))
            completed = await self._run(request, folder, variables, config)
        # An incremental decoder drops an incomplete character at the end of the shortened output.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(completed.output, final=not completed.dropped).rstrip("\r\n")
        is_cut = bool(completed.dropped)
        if completed.timed_out or completed.code != 0:
            text = _marked(hidden.of_error(text, is_cut=is_cut), completed)
            if completed.timed_out:
                raise AgentTimeout(request.timeout, text)
            raise AgentFailed(self._exit_words(completed, hidden), text)
        text = hidden.of_answer(text, is_cut=is_cut)
        result = self._parsed(text, completed) if self.settings.output == "json" else None
        return AgentReply(text, self.name, result, cut=_cut(completed), warnings=tuple(warnings))

    async def _answer_with_steps(
        self,
        request: AgentRequest,
        folder: str,
        variables: dict[str, str],
        config: str,
        hidden: _SecretHider,
    ) -> AgentReply:
        """Continue the program's own conversation if it exists, or start a new one.

        If the program fails before its first step and used no tokens, it has not found the
        conversation, and has done nothing. Then it gets the history as text. It also gets the
        history as text if the conversation is too long, unless the program has already worked.
        """
        loop, preset = asyncio.get_running_loop(), presets.PRESETS[self.settings.output]
        end, warnings = loop.time() + request.timeout, list[str]()
        given = request
        if given.resume is not None and not self._can_resume(request, preset):
            given = replace(given, resume=None)
        elif given.resume is not None and given.resume.is_full:
            warnings.append(self._new_conversation)
            given = replace(given, resume=None)
        while True:
            recorder = StepRecorder(preset.lines(given), given, hidden.of_answer)
            work = self._run(given, folder, variables, config, recorder.pipe)
            completed = await recorder.run(work, given.timeout)
            lines, ended = recorder.lines, not completed.timed_out
            is_refused = ended and lines.session.is_full and not lines.has_worked
            is_missing = ended and completed.code != 0 and not lines.has_begun
            if given.resume is None or not (is_refused or is_missing):
                given = replace(given, timeout=request.timeout)
                return self._result(given, completed, lines, hidden, warnings)
            if is_refused:
                warnings.append(self._new_conversation)
            else:
                log.info("%s did not find its session; it gets the history", self._program)
            given = replace(given, resume=None, timeout=max(end - loop.time(), 0.0))

    def _can_resume(self, request: AgentRequest, preset: presets.Preset) -> bool:
        """Return whether the program may continue its conversation, which belongs to a folder."""
        return bool(
            preset.resume
            and request.history
            and request.question == 1
            and self.settings.history == "transcript"
            and not template.takes_prompt(self.settings.command)
            and (request.work_dir or self.settings.work_dir)
        )

    def _result(
        self,
        request: AgentRequest,
        completed: process.ProgramResult,
        lines: StepLines,
        hidden: _SecretHider,
        warnings: Sequence[str],
    ) -> AgentReply:
        """Return the reply that the program's lines contain. Raise the errors of `answer`."""
        text = hidden.of_answer(lines.text or "")
        error: AgentFailed | AgentTimeout | None = None
        if completed.timed_out:
            error = AgentTimeout(request.timeout, text)
        elif lines.error:
            reported = f"{self._program} reported: {hidden.of_error(lines.error)}"
            if request.resume is not None and lines.session.is_full:
                reported += "; the next run begins a new conversation of the program"
            error = AgentFailed(reported, text)
        elif completed.code != 0:
            printed = replace(completed, output=lines.plain)
            error = AgentFailed(self._exit_words(printed, hidden), text)
        elif lines.text is None:
            error = AgentFailed(_without_result(self._program, self.settings.output, completed))
        if error is not None:
            error.usage = lines.usage
            raise error
        model = hidden.of_answer(lines.model or "")[:MAX_MODEL_CHARACTERS] or None
        warnings = (*warnings, *lines.warnings)
        return AgentReply(text, self.name, model=model, usage=lines.usage, warnings=warnings)

    def _exit_words(self, completed: process.ProgramResult, hidden: _SecretHider) -> str:
        # Hide before shortening, because no pattern finds a part of a secret.
        errors, output = (
            hidden.of_error(each.decode(errors="replace").strip())[-MAX_PRINTED_CHARACTERS:]
            for each in (completed.errors, completed.output)
        )
        said = group.describe_prints(errors, output)
        how = group.describe_exit(completed.code)
        if completed.exceeded:
            how = f"was ended by its sandbox: {completed.exceeded}"
        return f"{self._program} {how}; {said}"

    @property
    def _program(self) -> str:
        return Path(self.settings.command[0]).name

    @property
    def _new_conversation(self) -> str:
        return (
            f"{self._program}'s own conversation was too long, so this run began a new one with "
            "the session's last messages"
        )

    async def _run(
        self,
        request: AgentRequest,
        folder: str,
        variables: dict[str, str],
        config: str,
        lines: LinePipe | None = None,
    ) -> process.ProgramResult:
        # A relative path of the program starts at the agent's own work directory, if any.
        base = self.settings.work_dir or folder
        try:
            program = locations.find_program(self.settings.command[0], base, variables)
        except ValueError as error:
            raise self._wrong(str(error)) from None
        arguments = template.fill(self.settings.command, _values(request) | {"mcp_config": config})
        if request.resume is not None:
            resume = presets.PRESETS[self.settings.output].resume
            arguments = [*arguments, *(each.format(request.resume.id) for each in resume)]
        by_argument = template.takes_prompt(self.settings.command)
        text = request.prompt if by_argument else self._stdin_text(request)
        prompt = text.encode(errors="replace")
        sandbox = self._sandbox(request, config)
        program = to_start(self.settings.command[0], program, sandbox)
        loop = asyncio.get_running_loop()
        end = loop.time() + request.timeout
        started = await partial_text.with_option(
            self.settings.output,
            [program, *arguments[1:]],
            folder=folder,
            environment=variables,
            sandbox=sandbox,
            seconds=request.timeout,
        )
        try:
            return await process.run(
                started,
                folder=folder,
                environment=variables,
                stdin=None if by_argument else prompt,
                seconds=max(end - loop.time(), 0.0),
                output=lines,
                sandbox=sandbox,
            )
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise self._wrong(
                    f"the prompt ({len(prompt)} bytes) is too long for an argument; remove "
                    "{prompt} from the command, so that the program gets it on standard input"
                ) from None
            if error.errno in group.TEMPORARY_ERRNOS:
                raise AgentTemporary(
                    f"{self._program} could not be started: {error.strerror}"
                ) from None
            hidden = sandbox is not None and error.errno == errno.ENOENT
            hint = "; the sandbox hides what it needs, see --sandbox-readable" if hidden else ""
            raise self._wrong(f"{program} cannot be run: {error.strerror}{hint}") from None
        except ValueError as error:  # an argument contains a zero byte or a lone surrogate
            raise AgentFailed(f"the prompt cannot be passed as an argument: {error}") from None

    def _sandbox(self, request: AgentRequest, config: str) -> ProgramSandbox | None:
        """Return the run's sandbox with what this program needs."""
        if request.sandbox is None:
            return None
        settings = self.settings
        return request.sandbox.with_more(
            hosts=settings.sandbox_hosts,
            readable=[*settings.sandbox_readable, *filter(None, [os.path.dirname(config)])],
            writable=settings.sandbox_writable,
        )

    def _stdin_text(self, request: AgentRequest) -> str:
        if not request.history or request.resume is not None or self.settings.history == "none":
            return request.prompt
        # Indent each message, so that its text cannot look like another one or like the question.
        transcript = "\n\n".join(
            f"{_ROLES[each.role]}:\n{textwrap.indent(each.content, '    ')}"
            for each in request.history
        )
        return (
            f"Our conversation so far, each message indented:\n\n{transcript}\n\n"
            f"Now answer this:\n\n{request.prompt}"
        )

    @contextmanager
    def _folder(self, request: AgentRequest) -> Iterator[str]:
        work_dir = request.work_dir or self.settings.work_dir
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(
                    locations.run_folder(work_dir, prefix="daybook-agent-")
                )
            except ValueError as error:
                raise self._wrong(str(error)) from None
            yield folder

    @asynccontextmanager
    async def _program_folders(
        self, request: AgentRequest, folder: str
    ) -> AsyncIterator[tuple[list[ProgramFolder], list[str]]]:
        """Write the folders for the time of the block, in a thread that may wait for a lock."""
        stack = ExitStack()
        written = program_folders.written(folder, request.folders)
        try:
            enter = asyncio.to_thread(stack.enter_context, written)
            try:
                given = await wait_shielded(asyncio.create_task(enter))
            except program_folders.FolderRefused as error:
                raise self._wrong(str(error)) from None
            except TimeoutError as error:
                raise AgentTemporary(
                    f"the folders of the program cannot be written: {error.strerror}"
                ) from None
            yield given
        finally:
            await wait_shielded(asyncio.create_task(asyncio.to_thread(stack.close)))

    @contextmanager
    def _config(self, request: AgentRequest) -> Iterator[str]:
        """Yield the path of the MCP configuration file; "" if the command does not need the file.

        Remove the file at the end of the context.
        """
        if not template.takes_config(self.settings.command):
            yield ""
            return
        config_json = json.dumps(request.servers.config if request.servers else {"mcpServers": {}})
        # The file is not in the working directory, which other users may be able to read.
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
    """Hides the secrets that a program got.

    It replaces the value of a variable by the variable's name, and any other secret by asterisks.
    """

    variables: dict[str, str] = field(repr=False)
    servers: McpServers = field(repr=False)

    def of_error(self, text: str, *, is_cut: bool = False) -> str:
        values = environment.value_replacements(self.variables)
        return redact(text, self._secrets() | values, is_cut=is_cut)

    def of_answer(self, text: str, *, is_cut: bool = False) -> str:
        return redact(text, self._secrets(), is_cut=is_cut)

    def _secrets(self) -> dict[str, str]:
        # Also hide the variables of the servers, except values that are not secret.
        variables = {**self.servers.variables, **self.variables}
        secrets = FilledSecrets(set(self.servers.secrets)).replacements()
        return secrets | environment.secret_replacements(variables)


async def _with_reported(request: AgentRequest, given: Sequence[ProgramFolder]) -> AgentRequest:
    """Record which folders the program gets. Return the request with the rest of its time."""
    if request.journal is None or not given:
        return request
    loop = asyncio.get_running_loop()
    start = loop.time()
    digests = {each.name: each.digest for each in given}
    places = ", ".join("/".join(each) for each in program_folders.PLACES)
    position = StepPosition(request.fallback, request.question, request=0)
    step = PlannedStep(position, "instructions", "folders", digests, places, repeatable=True)
    text = "\n".join(f"{name}: SHA-256 {digest}" for name, digest in digests.items())
    try:
        async with asyncio.timeout(request.timeout):
            await request.journal.report(step, StepReply(text))
    except TimeoutError:
        raise AgentTimeout(request.timeout) from None
    return replace(request, timeout=max(request.timeout - (loop.time() - start), 0.0))


def _values(request: AgentRequest) -> dict[str, str]:
    due = request.due.astimezone(UTC).isoformat().replace("+00:00", "Z") if request.due else ""
    return {
        "prompt": request.prompt,
        "job": request.job or "",
        "due": due,
        "occurrence": request.occurrence,
    }


def _variables_of_run(request: AgentRequest) -> dict[str, str]:
    """Return variables about the run, without secrets. No setting of Daybook has such a name."""
    values = _values(request)
    of_run = {
        "DAYBOOK_RUN_ID": request.run_id,
        "DAYBOOK_JOB": values["job"],
        "DAYBOOK_DUE": values["due"],
        "DAYBOOK_ATTEMPT": str(request.attempt),
    }
    return {name: value for name, value in of_run.items() if value} if request.run_id else {}


def _cut(ended: process.ProgramResult) -> str:
    return f"{ended.dropped} more bytes were printed" if ended.dropped else ""


def _without_result(program: str, output: str, completed: process.ProgramResult) -> str:
    """Return the error of a program that printed no result line."""
    if completed.dropped:
        return (
            f"{program} printed lines of more than {MAX_LINE_BYTES} bytes, and no other result line"
        )
    return (
        f"{program} printed no result line; with the output {output}, its command needs the "
        f"arguments of the preset: {' '.join(presets.PRESETS[output].command[1:])}"
    )


def _marked(text: str, ended: process.ProgramResult) -> str:
    """Return the text for an error, with a note if it was shortened: errors have no `cut`."""
    return f"{text}\n[cut here: {_cut(ended)}]" if ended.dropped else text
