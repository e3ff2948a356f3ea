"""Steps that programs print as JSON lines, one event on each line.

::

    line ──► not an object, an unknown event ──► nothing
       └───► a step began ──► `StepEvent` without a reply
             a step ended ──► `StepEvent` with its reply
             the result ────► ``text``, ``error``, ``usage`` …

A program has started a step before the step's line arrives, so this module cannot prevent a step. A
new version of a program may change its format. So a field that is missing, or has an unexpected
type, counts as empty and does not stop the run.

`ClaudeCodeLines` reads `claude -p --output-format stream-json --verbose`, as the parser of
`anthropics/claude-agent-sdk-python` does (`src/claude_agent_sdk/_internal/message_parser.py`).
`CodexLines` reads `codex exec --json`. `openai/codex` defines its events
(`codex-rs/exec/src/exec_events.rs`, `docs/exec.md`).

Codex prints the tokens of the whole thread after each turn. The tokens of a turn are the difference
to the count before it::

    the session's last run ──► `ProgramSession.tokens` ──┐
                                  turn.completed ──► tokens ──► the difference is the turn's usage
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from daybook.agents.base import AgentRequest
from daybook.agents.journal import PlannedStep, ProgramSession, StepPosition, StepReply, digest_of
from daybook.ledger.states import Usage
from daybook.runs import usage
from daybook.usage import TOKENS

MAX_PLAIN_BYTES = 8 * 1024
"""Maximum length of the end of the lines that are not JSON objects."""

MAX_ERROR_CHARACTERS = 500
"""Maximum length of the error of a step. It has the end of the command's output."""

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_CLAUDE_CODE_FULL = re.compile(r"prompt is too long|exceed context limit", re.IGNORECASE)
_CODEX_FULL = re.compile(
    r"ran out of room in the model's context window|context_length_exceeded"
    r"|exceeds the context window",
    re.IGNORECASE,
)

Json = Mapping[str, Any]


@dataclass(frozen=True)
class StepEvent:
    """A step that started (``is_new``), a step that ended (then it has a ``reply``), or both."""

    step: PlannedStep
    reply: StepReply | None
    is_new: bool


class StepLines(ABC):
    """Reader of the lines of one answer.

    ``text`` is the answer; None until the program has printed its result. ``error`` is the error
    that the result reports; empty if there is none. ``usage`` is the usage so far, in the format of
    `ledger.states.Usage`. ``model`` and ``usage`` are None until the program has printed them.
    ``writing`` is the step of the response that the program writes, and its text so far; None if
    there is none.
    ``session`` is the program's own conversation, with which it can be resumed. ``unread`` is the
    number of lines that are not JSON objects, and ``plain`` is the end of these lines. ``warnings``
    are remarks about ``usage`` and ``session``.
    """

    full: ClassVar[re.Pattern[str]]
    """Pattern of the errors that mean that the conversation is too long."""

    def __init__(self, request: AgentRequest) -> None:
        self.text: str | None = None
        self.error = ""
        self.model: str | None = None
        self.usage: Usage | None = None
        self.session = ProgramSession()
        self.writing: tuple[PlannedStep, str] | None = None
        self.unread = 0
        self.plain = b""
        self._wrong_usage = ""
        self._remarks: list[str] = []
        self._request = request
        self._requests = self._calls = 0
        self._open: dict[str, PlannedStep] = {}
        self._events: list[StepEvent] = []

    def read(self, line: bytes) -> list[StepEvent]:
        """Read a line, and return the step events in it."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # invalid UTF-8 also raises a ValueError
            event = None
        if isinstance(event, dict):
            try:
                self._read(event)
            except RecursionError:  # the event is nested too deeply for its digest
                self.unread += 1
        elif line.strip():
            self.unread += 1
            self.plain = (self.plain + line + b"\n")[-MAX_PLAIN_BYTES:]
        return self._taken()

    def close(self) -> list[StepEvent]:
        """Return the last step events, after the end of the output."""
        self._close()
        if self.error and self.full.search(self.error):
            self.session = replace(self.session, is_full=True)
        return self._taken()

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (self._wrong_usage, *self._remarks))))

    @property
    def has_worked(self) -> bool:
        """Return whether the program has called a tool, or reported tokens or a cost."""
        used = self.usage or {}
        return bool(self._calls or usage.tokens(used) or used.get("cost_usd"))

    @property
    def has_begun(self) -> bool:
        """Return whether the program has printed a step, or a usage that is not zero."""
        return bool(self._requests or self._calls or any((self.usage or {}).values()))

    @abstractmethod
    def _read(self, event: Json) -> None:
        """Process one event: update the attributes, and add step events."""

    @abstractmethod
    def _close(self) -> None:
        """Process the end of the output, which may end steps or show an error."""

    def _taken(self) -> list[StepEvent]:
        taken, self._events = self._events, []
        return taken

    def _begin_request(self, key: str, name: str) -> PlannedStep:
        """Add the start of a request to a model. Only the first request has a known input."""
        self._requests += 1
        asked = self._request.prompt if self._requests == 1 else ""
        at = self._position(self._requests)
        return self._begin(
            key, PlannedStep(at, "request", name, {"id": key}, asked, repeatable=True)
        )

    def _begin_call(self, key: str, name: str, arguments: Any, position: StepPosition) -> None:
        self._calls += 1
        written = arguments if isinstance(arguments, str) else _json(arguments)
        # Store only the digest of the arguments, which may be long, because no attempt replays the
        # call.
        facts = {"tool": name, "arguments": digest_of(arguments)}
        self._begin(key, PlannedStep(position, "tool", name, facts, written, repeatable=False))

    def _position(self, request: int, call: int = 0) -> StepPosition:
        return StepPosition(self._request.fallback, self._request.question, request, call)

    def _begin(self, key: str, step: PlannedStep) -> PlannedStep:
        self._open[key] = step
        self._events.append(StepEvent(step, None, is_new=True))
        return step

    def _end(self, key: str, reply: StepReply) -> None:
        step = self._open.pop(key, None)
        if step is None:
            return
        if self.writing is not None and self.writing[0] is step:
            self.writing = None
        last = self._events[-1] if self._events else None
        if last is not None and last.is_new and last.step is step:
            # Record start and end with one write.
            self._events[-1] = StepEvent(step, reply, is_new=True)
        else:
            self._events.append(StepEvent(step, reply, is_new=False))

    def _used(self, tokens: Json, cost: float | None) -> Usage:
        """Return the usage of the whole answer.

        ``cost`` is in US dollars; None if it is unknown.
        """
        reported = {"requests": self._requests, **_tokens_of(tokens), "cost_usd": cost}
        used, self._wrong_usage = usage.checked(reported)
        return used | ({"tool_calls": self._calls} if self._calls else {})


@dataclass
class _Response:
    """A response of the model, which arrives in one or more lines."""

    step: PlannedStep
    calls: int = 0
    texts: list[str] = field(default_factory=list)
    written: str = ""
    """The text so far, from events of the stream or from whole texts."""
    error: str = ""
    tokens: Usage = field(default_factory=dict)
    counted: Usage = field(default_factory=dict)
    """The tokens of this response that the sum of the answer already includes."""


class ClaudeCodeLines(StepLines):
    """Reader of Claude Code's stream.

    A response ends when the next response arrives, or the result of one of its tool calls. If
    another line of the same response follows such a result, the response ends once more, with all
    of its texts. A line of a subagent has, as its parent, the call that started the subagent. Lines
    of subagents may be mixed with other lines.

    With `--include-partial-messages`, the program also prints the events of the model's stream.
    They show the text of a response earlier; the response itself is in the lines after them.
    """

    full = _CLAUDE_CODE_FULL

    def __init__(self, request: AgentRequest) -> None:
        super().__init__(request)
        self._responses: dict[str, _Response] = {}
        self._last_of: dict[str, str] = {}
        """Key of the last response of each parent."""
        self._tokens: Usage = {}

    def _read(self, event: Json) -> None:
        match event.get("type"):
            case "system" if event.get("subtype") == "init":
                self._read_session(event)
                self.model = _text(event.get("model")) or None
            case "stream_event":
                parent = _text(event.get("parent_tool_use_id"))
                self._read_part(parent, _object(event.get("event")))
            case "assistant":
                self._read_response(event)
            case "user":
                self._end_response(_text(event.get("parent_tool_use_id")))
                for block in _blocks(event):
                    self._read_result_of_call(block)
            case "result":
                self._read_result(event)

    def _close(self) -> None:
        for parent in self._last_of:
            self._end_response(parent)

    def _read_session(self, event: Json) -> None:
        found = _session(event.get("session_id")) or self.session.id
        self.session = replace(self.session, id=found)

    def _read_part(self, parent: str, event: Json) -> None:
        """Process an event of the model's stream: a response begins, or its text goes on."""
        if event.get("type") == "message_start":
            self._read_response({"message": event.get("message"), "parent_tool_use_id": parent})
            return
        response = self._responses.get(self._last_of.get(parent, ""))
        if response is None:
            return
        if event.get("type") == "content_block_start" and response.written:
            response.written = f"{response.written.rstrip()}\n\n"
        response.written += _text(_object(event.get("delta")).get("text"))
        self._show(parent, response)

    def _show(self, parent: str, response: _Response) -> None:
        if response.written and not parent:  # a subagent does not write the answer
            self.writing = response.step, response.written

    def _read_response(self, event: Json) -> None:
        message, parent = _object(event.get("message")), _text(event.get("parent_tool_use_id"))
        key = _text(message.get("id")) or _text(event.get("uuid"))
        last = self._last_of.get(parent, "")
        if key not in self._responses:
            self._end_response(parent)
            if last:
                self._responses[last].texts.clear()
            model = _text(message.get("model"))
            self.model = self.model or model or None
            self._responses[key] = _Response(self._begin_request(key, model or "model"))
            self._last_of[parent] = key
        response = self._responses[key]
        if key == last:
            self._open[key] = response.step
        response.tokens = _claude_tokens(_object(message.get("usage"))) or response.tokens
        response.error = _text(event.get("error"))
        for block in _blocks(event):
            match block.get("type"):
                case "text":
                    text = _text(block.get("text"))
                    response.texts.append(text)
                    if text not in response.written:
                        response.written = "\n\n".join(filter(None, [response.written, text]))
                    self._show(parent, response)
                case "tool_use" | "server_tool_use":
                    response.calls += 1
                    name, arguments = _text(block.get("name")) or "tool", block.get("input")
                    at = self._position(response.step.position.request, response.calls)
                    self._begin_call(_text(block.get("id")), name, arguments, at)
                    response.texts.append(f"{name}({_json(arguments)})")
                case _:
                    self._read_result_of_call(block)

    def _read_result_of_call(self, block: Json) -> None:
        text = _content_text(block.get("content"))
        failed = block.get("is_error") is True
        error = (text or "the call failed") if failed else ""
        self._end(_text(block.get("tool_use_id")), StepReply("" if failed else text, error))

    def _end_response(self, parent: str) -> None:
        """Add the end of the last response of ``parent``, if this response is open."""
        key = self._last_of.get(parent, "")
        if key not in self._open:
            return
        response = self._responses[key]
        for name, count in response.tokens.items():
            more = count - response.counted.get(name, 0)
            self._tokens[name] = self._tokens.get(name, 0) + more
        response.counted = response.tokens
        self.usage = self._used(self._tokens, None)
        used = _used_by_step(response.tokens)
        text = "\n".join(filter(None, response.texts))
        self._end(key, StepReply(text, response.error, used))

    def _read_result(self, event: Json) -> None:
        self._close()
        self._read_session(event)
        text, kind = _text(event.get("result")), _text(event.get("subtype"))
        if event.get("is_error") is True or kind != "success":
            reported = event.get("errors")
            errors = [*map(_text, reported)] if isinstance(reported, list) else []
            reason = _text(event.get("terminal_reason"))
            why = reason if reason and kind == "success" else kind
            self.error = text or "; ".join(filter(None, errors)) or why.replace("_", " ")
            is_full = reason in ("prompt_too_long", "blocking_limit")
            self.session = replace(self.session, is_full=is_full)
        else:
            self.text, self.error = text, ""
        models = [_object(each) for each in _object(event.get("modelUsage")).values()]
        tokens = _sum([_claude_model_tokens(each) for each in models])
        self.usage = self._used(
            tokens or _claude_tokens(_object(event.get("usage"))) or self._tokens,
            _dollars(event.get("total_cost_usd")),
        )


_CODEX_TOKENS = {
    "input_tokens": "input_tokens",
    "cache_read_tokens": "cached_input_tokens",
    "output_tokens": "output_tokens",
}
"""Codex's names of the counts of a usage."""


class CodexLines(StepLines):
    """Reader of the stream of `codex exec`.

    The whole turn counts as one request, because the stream does not show the single requests. The
    answer is the last message of the turn.

    The program reports the sums since the start of the thread, also if it continues the thread. A
    sum that is smaller than the one before is a new count, which begins with this turn.
    """

    full = _CODEX_FULL

    def __init__(self, request: AgentRequest) -> None:
        super().__init__(request)
        self._message = self._last_error = ""
        self._turns: list[Usage] = []
        """The tokens of each turn; unknown counts are missing."""
        resumed = request.resume
        tokens = resumed.tokens if resumed else dict.fromkeys(_CODEX_TOKENS, 0)
        self._has_other_tokens = resumed is not None and resumed.has_unreported
        self.session = ProgramSession(tokens=tokens)

    def _read(self, event: Json) -> None:
        item = _object(event.get("item"))
        match event.get("type"):
            case "thread.started":
                self._read_thread(_session(event.get("thread_id")))
            case "turn.started":
                self._begin_request("turn", "codex")
            case "item.started":
                self._begin_item(item)
            case "item.completed" if item.get("type") == "agent_message":
                self._message = _text(item.get("text"))
                if (turn := self._open.get("turn")) is not None:
                    self.writing = turn, self._message
            case "item.completed":
                self._begin_item(item)
                self._end(_text(item.get("id")), _codex_reply(item))
            case "turn.completed":
                self.text, self.error = self._message, ""
                self._end_turn(_object(event.get("usage")), "")
            case "turn.failed":
                self.error = _text(_object(event.get("error")).get("message")) or "turn failed"
                self._end_turn({}, self.error)
            case "error":  # the program prints it also before it reconnects
                self._last_error = _text(event.get("message"))

    def _close(self) -> None:
        if self.text is None and not self.error:
            self.error = self._last_error

    def _begin_item(self, item: Json) -> None:
        key, found = _text(item.get("id")), _codex_call(item)
        if found is not None and key not in self._open:
            name, arguments = found
            request = max(1, self._requests)
            self._begin_call(key, name, arguments, self._position(request, self._calls + 1))

    def _end_turn(self, tokens: Json, error: str) -> None:
        total = {
            name: count
            for name, printed in _CODEX_TOKENS.items()
            if (count := _count(tokens.get(printed))) is not None
        }
        turn: Usage = {}
        if any(total.values()):  # a turn uses tokens, so zeros mean that they were not reported
            turn = self._since_last_turn(total)
            self._turns.append(turn)
            names = [name for name in _CODEX_TOKENS if all(name in each for each in self._turns)]
            self.usage = self._used(
                {name: sum(each[name] for each in self._turns) for name in names}, None
            )
            is_possible = all(count <= usage.MAX_COUNT for count in total.values())
            known = total if is_possible else None
            self.session = replace(self.session, tokens=known, has_unreported=False)
            self._has_other_tokens = False
        used = _used_by_step(turn)
        self._end("turn", StepReply("" if error else self._message, error, used))

    def _read_thread(self, thread: str) -> None:
        resumed = self._request.resume
        if resumed is not None and thread and thread != resumed.id:
            self._remarks.append(
                "the program began a new conversation although it was asked to continue the last "
                "one, so it did not know the earlier messages"
            )
            self._has_other_tokens = False
            self.session = replace(self.session, tokens=dict.fromkeys(_CODEX_TOKENS, 0))
        self.session = replace(self.session, id=thread, has_unreported=True)

    def _since_last_turn(self, total: Usage) -> Usage:
        """Return the known tokens since the last turn, and remark what is not known."""
        before = self.session.tokens
        if before is None:
            self._remarks.append(
                "the program reported the tokens of its whole conversation, and those of the "
                "earlier runs are not known, so the tokens of this run are unknown"
            )
            return {}
        if any(count < before.get(name, 0) for name, count in total.items()):
            return total
        if self._has_other_tokens:
            self._remarks.append(
                "the tokens include those of an earlier run that ended before the program "
                "reported its tokens"
            )
        return {name: count - before[name] for name, count in total.items() if name in before}


def _codex_call(item: Json) -> tuple[str, Any] | None:
    """Return the name and the arguments of a call; None if the item is not a call."""
    match item.get("type"):
        case "command_execution":
            return "command_execution", _text(item.get("command"))
        case "file_change":
            return "file_change", item.get("changes")
        case "web_search":
            return "web_search", _text(item.get("query"))
        case "mcp_tool_call":
            name = f"{_text(item.get('server'))}.{_text(item.get('tool'))}"
            return name, item.get("arguments")
        case "collab_tool_call":
            return f"collab.{_text(item.get('tool'))}", _text(item.get("prompt"))
        case _:
            return None


def _codex_reply(item: Json) -> StepReply:
    output = _text(item.get("aggregated_output"))
    output = output or _content_text(_object(item.get("result")).get("content"))
    status, code = _text(item.get("status")), item.get("exit_code")
    if status not in ("failed", "declined") and not (isinstance(code, int) and code):
        return StepReply(output)
    why = _text(_object(item.get("error")).get("message"))
    if not why and isinstance(code, int):
        why = f"exit code {code}: {output.strip()[-MAX_ERROR_CHARACTERS:]}".rstrip(": ")
    return StepReply(output, why or status or "failed")


def _claude_tokens(usage: Json) -> Usage:
    read, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    return _counts(usage.get("input_tokens"), usage.get("output_tokens"), read, written)


def _claude_model_tokens(usage: Json) -> Usage:
    read, written = usage.get("cacheReadInputTokens"), usage.get("cacheCreationInputTokens")
    return _counts(usage.get("inputTokens"), usage.get("outputTokens"), read, written)


def _counts(fresh: Any, answered: Any, read: Any, written: Any) -> Usage:
    """Return the counts as `Usage`. Input tokens include cache tokens."""
    known = [_count(each) or 0 for each in (fresh, answered, read, written)]
    if not any(known):
        return {}
    input_tokens = known[0] + known[2] + known[3]
    return dict(zip(TOKENS, (input_tokens, *known[1:]), strict=True))


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def _dollars(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and value >= 0 else None


def _sum(usages: list[Usage]) -> Usage:
    known = [each for each in usages if each]
    return {name: sum(each[name] for each in known) for name in TOKENS} if known else {}


def _tokens_of(tokens: Json) -> Usage:
    """Return the counts as a `Usage`: None for unknown input or output, without caches of 0."""
    used = {name: tokens.get(name) for name in TOKENS[:2]}
    return used | {name: tokens[name] for name in TOKENS[2:] if tokens.get(name)}


def _used_by_step(tokens: Json) -> Usage:
    """Return the usage of one request, whose price the programs do not report."""
    return usage.checked({"requests": 1, **_tokens_of(tokens), "cost_usd": None})[0]


def _blocks(event: Json) -> list[Json]:
    content = _object(event.get("message")).get("content")
    return [_object(each) for each in content] if isinstance(content, list) else []


def _content_text(content: Any) -> str:
    """Return the text of a result, which is a text, or blocks of text and other content."""
    if isinstance(content, list):
        parts = [_object(each) for each in content]
        return "\n".join(_text(each.get("text")) or f"[{each.get('type')}]" for each in parts)
    return content if isinstance(content, str) else _json(content) if content else ""


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _session(value: Any) -> str:
    """Return an id that can be an argument of a command; "" if it has another form."""
    return value if isinstance(value, str) and _SESSION.fullmatch(value) else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
