"""Model provider on localhost that speaks the real protocols and follows a test's script.

It answers OpenAI's chat completions and responses, and Anthropic's messages, over HTTP/1.1, and
keeps every request. ``Provider.script`` contains the next steps, one for each request::

    with provider() as model:
        model.script = [limited("7"), "The answer"]
        ...  # call http://127.0.0.1:…/v1
        assert [seen.prompt for seen in model.requests] == ["Hello", "Hello"]

The last step repeats forever. A request with another key than `KEY` is answered with 401.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-7f3Qm0ZrW5pT9xKd"
"""The key that the provider accepts."""

WAIT = 20.0
"""Seconds that a test may wait for one of the provider's events."""


@dataclass(frozen=True)
class Answer:
    """A text and its token counts; ``cached`` tokens are included in the input's.

    ``finish`` is an OpenAI value: ``stop``, ``length`` or ``content_filter``. With ``tool`` the
    answer also calls that tool with these arguments, and in OpenAI's protocol with each ``more``. A
    stream has the text in ``pieces``, and waits for the event ``wait`` after the first of them.
    """

    text: str = "Hello."
    input_tokens: int = 10
    output_tokens: int = 5
    cached: int = 0
    finish: str = "stop"
    model: str | None = None
    tool: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    usage: bool = True
    pieces: int = 2
    wait: threading.Event | None = field(default=None, compare=False)
    more: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Status:
    """An error with this status, in the protocol's form."""

    code: int
    message: str = "scripted"
    kind: str = "scripted_error"
    headers: Mapping[str, str] = field(default_factory=dict)


def limited(retry_after: str = "") -> Status:
    """Return a 429 answer, with the header if a value is given."""
    headers = {"Retry-After": retry_after} if retry_after else {}
    return Status(429, "Slow down.", "rate_limit_error", headers)


@dataclass(frozen=True)
class Hang:
    """No answer; `Provider.left` is set when the client has closed the connection."""


@dataclass(frozen=True)
class Cut:
    """Response whose connection ends after this share of the body.

    A client without a length header cannot detect that.
    """

    length: bool = True
    share: float = 0.7


@dataclass(frozen=True)
class Page:
    """A response of something other than an LLM API, with status 200."""

    body: str = "<html>It works!</html>"
    content_type: str = "text/html"


StepValue = str | Answer | Status | Hang | Cut | Page
Step = StepValue | Callable[["ModelRequest"], StepValue]
"""A step, or a function from the request to a step, for example to use a tool's result."""


@dataclass(frozen=True)
class ModelRequest:
    """A request; header names are lowercase."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or bearer

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Return role and text of each message, the system prompt first, for every protocol."""
        given = [("system", _text(self.body["system"]))] if "system" in self.body else []
        if "instructions" in self.body:
            given.append(("system", self.body["instructions"]))
        messages = self.body.get("messages", self.body.get("input", []))
        return given + [(each["role"], _text(each["content"])) for each in messages]

    @property
    def prompt(self) -> str:
        return self.messages[-1][1]

    @property
    def tools(self) -> list[str]:
        """Return the names of the tools that the request offers."""
        return [each.get("function", each)["name"] for each in self.body.get("tools", [])]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    # A tool result is a text in a part of its own; a tool call has none.
    return "".join(part.get("text") or _text(part.get("content")) for part in content or [])


class Provider:
    """Model provider that follows its script.

    ``address`` ends in /v1, like OpenAI's; Anthropic's client needs ``origin``. Each request sets
    ``asked``. ``left`` is set when the client ends a `Hang`, ``closed`` when a connection has
    ended.
    """

    def __init__(self) -> None:
        self.script: list[Step] = ["Hello."]
        self.requests: list[ModelRequest] = []
        self.asked = threading.Event()
        self.left = threading.Event()
        self.closed = threading.Event()
        self.closing = threading.Event()
        self._lock = threading.Lock()
        provider = self

        class Handler(_Handler):
            fake_provider = provider

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def address(self) -> str:
        return f"{self.origin}/v1"

    def next(self, request: ModelRequest) -> StepValue:
        with self._lock:
            self.requests.append(request)
            step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.asked.set()
        return step(request) if callable(step) else step


@contextmanager
def provider() -> Iterator[Provider]:
    """Yield a provider that listens until the context ends."""
    fake_provider = Provider()
    thread = threading.Thread(
        target=fake_provider.server.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    try:
        yield fake_provider
    finally:
        fake_provider.closing.set()
        fake_provider.server.shutdown()
        thread.join()
        fake_provider.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake_provider: Provider

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def finish(self) -> None:
        super().finish()
        self.fake_provider.closed.set()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ModelRequest(self.path, headers, json.loads(self.rfile.read(length)))
        step = self.fake_provider.next(request)
        if request.key != KEY and not isinstance(step, Status):
            words = f"Incorrect API key provided: {request.key}."
            step = Status(401, words, "authentication_error")
        self._do(request, Answer(step) if isinstance(step, str) else step)

    def _do(self, request: ModelRequest, step: StepValue) -> None:
        match step:
            case Hang():
                self._hang()
            case Cut():
                self._cut(step, *_encoded(request, _answer(request, Answer("A long answer."))))
            case Status():
                self._send(step.code, _error(request, step), step.headers)
            case Page():
                self._send(200, step.body.encode(), {"Content-Type": step.content_type})
            case Answer(wait=threading.Event()):
                self._send_slowly(step, *_encoded(request, _answer(request, step), step))
            case Answer():
                self._send(200, *_encoded(request, _answer(request, step), step))

    def _send(self, code: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        request_headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.send_response(code)
        for name, value in (request_headers | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_slowly(self, step: Answer, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the events up to the first piece of the text, wait, and send the others."""
        assert step.wait is not None
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", headers["Content-Type"])
        self.send_header("Connection", "close")
        self.end_headers()
        events = body.split(b"\n\n")
        beginning = step.text[:5].encode()
        first = next(number for number, each in enumerate(events, 1) if beginning in each)
        self.wfile.write(b"\n\n".join(events[:first]) + b"\n\n")
        while not step.wait.wait(0.02) and not self.fake_provider.closing.is_set():
            pass
        self.wfile.write(b"\n\n".join(events[first:]))

    def _hang(self) -> None:
        self.close_connection = True
        while not self.fake_provider.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.02)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                self.fake_provider.left.set()
                return

    def _cut(self, step: Cut, body: bytes, headers: Mapping[str, str]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", headers["Content-Type"])
        self.send_header("Connection", "close")
        if step.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: int(len(body) * step.share)])


def _encoded(
    request: ModelRequest, answer: dict[str, Any], step: Answer = Answer()
) -> tuple[bytes, Mapping[str, str]]:
    if request.body.get("stream"):
        if request.path.endswith("/chat/completions"):
            body = _chat_stream(_chunks(request, answer, step.pieces))
        elif request.path.endswith("/responses"):
            body = _stream(_response_events(answer))
        else:
            body = _stream(_events(answer))
        return body, {"Content-Type": "text/event-stream"}
    return json.dumps(answer).encode(), {"Content-Type": "application/json"}


def _error(request: ModelRequest, step: Status) -> bytes:
    error = {"type": step.kind, "message": step.message}
    if request.path.endswith("/messages"):
        return json.dumps({"type": "error", "error": error}).encode()
    return json.dumps({"error": error | {"code": step.kind, "param": None}}).encode()


def _answer(request: ModelRequest, step: Answer) -> dict[str, Any]:
    model = step.model or request.body["model"]
    for end, protocol in (
        ("/chat/completions", _chat),
        ("/responses", _responses),
        ("/messages", _messages),
    ):
        if request.path.endswith(end):
            return protocol(step, model)
    raise AssertionError(f"no such path: {request.path}")


def _events(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an Anthropic message as stream events, because its client requests a stream."""
    began = message | {"content": [], "stop_reason": None}
    began["usage"] = message["usage"] | {"output_tokens": 1}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": began}]
    for index, block in enumerate(message["content"]):
        if block["type"] == "tool_use":
            events += _tool_events(index, block)
            continue
        half = len(block["text"]) // 2
        empty = {"type": "text", "text": ""}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        for piece in (block["text"][:half], block["text"][half:]):
            delta = {"type": "text_delta", "text": piece}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    spent = {"output_tokens": message["usage"]["output_tokens"]}
    events.append({"type": "message_delta", "delta": ended, "usage": spent})
    return [*events, {"type": "message_stop"}]


def pieces_of(text: str, count: int) -> list[str]:
    """Return ``text`` in ``count`` pieces of about the same length."""
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def _chunks(request: ModelRequest, answer: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return a chat completion as the chunks of a stream; the last one may have the usage."""
    (choice,) = answer["choices"]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": each} for each in pieces_of(message["content"], count)]
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        begun = {"name": function["name"], "arguments": ""}
        deltas.append({"tool_calls": [{**call, "index": index, "function": begun}]})
        for each in pieces_of(function["arguments"], 2):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": each}}]})
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    chunks = [
        {**head, "choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in deltas
    ]
    end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    chunks.append({**head, "choices": [end]})
    if "usage" in answer and request.body.get("stream_options", {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": answer["usage"]})
    return chunks


def _chat_stream(chunks: list[dict[str, Any]], end: str = "[DONE]") -> bytes:
    ends = [end] if end else []
    return "".join(f"data: {each}\n\n" for each in [*map(json.dumps, chunks), *ends]).encode()


def chat_stream(request: ModelRequest, answer: Answer, *, finish: bool, done: bool) -> Page:
    """Return the stream of an answer, without the reason of its end, or without `[DONE]`."""
    chunks = _chunks(request, _answer(request, answer), answer.pieces)
    if not finish:
        chunks = [each for each in chunks if each["choices"] or "usage" in each]
        for each in chunks:
            for choice in each["choices"]:
                choice["finish_reason"] = None
    return Page(_chat_stream(chunks, "[DONE]" if done else "").decode(), "text/event-stream")


def _response_events(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a response of OpenAI's API as the events of its stream."""
    began = response | {"status": "in_progress", "output": [], "usage": None}
    (message,) = response["output"]
    text = message["content"][0]["text"]
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": began},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": message | {"status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": empty},
        *(
            {"type": "response.output_text.delta", **place, "delta": each, "logprobs": []}
            for each in pieces_of(text, 2)
        ),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": response},
    ]
    return [{**each, "sequence_number": number} for number, each in enumerate(events)]


def _tool_events(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    return [
        {"type": "content_block_start", "index": index, "content_block": block | {"input": {}}},
        {"type": "content_block_delta", "index": index, "delta": delta},
        {"type": "content_block_stop", "index": index},
    ]


def _stream(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def _chat(step: Answer, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step.text}
    if step.tool:
        message["tool_calls"] = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": step.tool, "arguments": json.dumps(dict(arguments))},
            }
            for number, arguments in enumerate((step.arguments, *step.more), start=1)
        ]
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": model,
        "choices": [{"index": 0, "finish_reason": step.finish, "message": message}],
    }
    if step.usage:
        answer["usage"] = {
            "prompt_tokens": step.input_tokens,
            "completion_tokens": step.output_tokens,
            "total_tokens": step.input_tokens + step.output_tokens,
            "prompt_tokens_details": {"cached_tokens": step.cached},
        }
    return answer


def _responses(step: Answer, model: str) -> dict[str, Any]:
    text = {"type": "output_text", "text": step.text, "annotations": []}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_767_225_600,
        "status": "completed",
        "model": model,
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": step.input_tokens,
            "output_tokens": step.output_tokens,
            "total_tokens": step.input_tokens + step.output_tokens,
            "input_tokens_details": {"cached_tokens": step.cached},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


def _messages(step: Answer, model: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": step.text}] if step.text else []
    if step.tool:
        call = {"type": "tool_use", "id": "call_1", "name": step.tool}
        content.append(call | {"input": dict(step.arguments)})
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if step.tool else _STOPS[step.finish],
        "stop_sequence": None,
        "usage": {  # unlike in the other protocol, the input excludes cached tokens
            "input_tokens": step.input_tokens - step.cached,
            "cache_read_input_tokens": step.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": step.output_tokens,
        },
    }
