"""Connection to an MCP server that is a program. It exchanges one message per line, over its pipes.

The program is started for each call of a job, or once for all calls of an agent's answer.

::

    start ─► messages ─┬─► may exit: input closed, EXIT_GRACE_SECONDS to end by itself ─┐
                       └─► timeout, cancellation, fault ────────────────────────────────┴─► group
                                                                                     ended, reaped

This module replaces the `mcp` library's own transport. That transport does not end the server's
child processes with the server, reads a line of any length, and passes more environment variables
to the server than the operator names.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

from daybook.errors import InvalidInput, ToolUnreachable
from daybook.processes import environment, locations, pipes
from daybook.processes.ending import wait_shielded
from daybook.processes.group import TEMPORARY_ERRNOS, ProcessGroup, describe_exit, describe_prints
from daybook.tools.answers import HideSecrets
from daybook.tools.server_settings import ToolServerSettings
from daybook.tools.wire import CALL_METHOD, MAX_MESSAGE_BYTES, Fault

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCMessage

EXIT_GRACE_SECONDS = 2.0
"""Time that a server has to exit by itself after its input was closed."""

MAX_ERROR_BYTES = 8 * 1024
"""Maximum number of bytes of standard error that are stored, counted from its end."""

MAX_SHOWN_ERROR_CHARACTERS = 2_000
"""Maximum number of characters of standard error in a message."""

_CLOSED = (anyio.ClosedResourceError, anyio.BrokenResourceError)


class ProgramWire:
    """Connection to the server ``name``. Entering the context starts the server's program.

    ``hide`` replaces the secrets of a call in the program's standard error.
    """

    def __init__(self, name: str, settings: ToolServerSettings, hide: HideSecrets = str) -> None:
        self.sent = False
        self._called = False
        self._name = name
        self._settings = settings
        self._hide = hide
        self._variables = environment.select(settings.environment)
        self._may_exit = False
        self._codes: set[int] = set()
        self._errors = pipes.TailPipe(MAX_ERROR_BYTES)
        self._no_messages = b""
        self._input = _Input()
        self._folder_stack = ExitStack()
        self._group: ProcessGroup | None = None
        self._reading: asyncio.BaseTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._limit_exceeded = ""
        self._read = 0
        self._output_ended = False
        self._code: int | None = None

    async def __aenter__(self) -> TransportStreams:
        """Start the program. Raise `InvalidInput` or `ToolUnreachable` if it cannot be started."""
        from mcp.shared.message import SessionMessage

        group = self._group = self._start()
        try:
            lines = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES)
            protocol = asyncio.StreamReaderProtocol(lines)
            self._reading, _ = await pipes.attach(group.child, protocol, self._errors, self._input)
        except BaseException:
            await self._ended()
            raise
        received, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](0)
        self._tasks = [
            asyncio.create_task(self._read_messages(lines, received)),
            asyncio.create_task(self._write_messages(to_send, received)),
        ]
        return messages, outgoing

    async def __aexit__(self, *_: object) -> None:
        await self._ended()

    def begin(self) -> None:
        self.sent = False
        self._codes.clear()

    def allow_exit(self) -> None:
        self._may_exit = True

    def came(self, code: int) -> bool:
        return code in self._codes

    def fault(self) -> Fault | None:
        if self._limit_exceeded:
            message = (
                f"{self._program}: {self._limit_exceeded} longer than {MAX_MESSAGE_BYTES:,} bytes"
            )
            return Fault(message, refused=True)
        if self._code is None:
            return None
        return Fault(self.explained(f"{self._program} {describe_exit(self._code)}"))

    def explained(self, message: str) -> str:
        errors, output = map(self._shown, (bytes(self._errors.kept), self._no_messages))
        return f"{message}; {describe_prints(errors, output)}"

    def _shown(self, printed: bytes) -> str:
        text = printed.decode(errors="replace").strip()
        # Shorten the text last, because `redact_values` does not recognise a part of a secret.
        text = environment.redact_values(self._hide(text), self._variables)
        return text[-MAX_SHOWN_ERROR_CHARACTERS:]

    @property
    def _program(self) -> str:
        return Path(self._settings.command[0]).name

    def _start(self) -> ProcessGroup:
        command = self._settings.command
        try:
            folder = self._folder_stack.enter_context(
                locations.run_folder(self._settings.work_dir, prefix="daybook-tool-")
            )
            program = locations.find_program(command[0], folder, self._variables)
            return ProcessGroup([program, *command[1:]], folder=folder, environment=self._variables)
        except (OSError, ValueError) as error:
            self._folder_stack.close()
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"{self._program} cannot be started: {error.strerror}"
                if error.errno in TEMPORARY_ERRNOS:
                    raise ToolUnreachable(f'the tool server "{self._name}": {reason}') from None
            raise InvalidInput("tool", f'the server "{self._name}": {reason}') from None

    async def _ended(self) -> None:
        await wait_shielded(asyncio.create_task(self._end()))

    async def _end(self) -> None:
        group = self._group
        assert group is not None
        try:
            self._input.close()
            if self._may_exit or self._output_ended:
                with suppress(TimeoutError):
                    async with asyncio.timeout(EXIT_GRACE_SECONDS):
                        await group.exited.wait()
            exited_by_itself = group.exited.is_set()
            await group.end()
            self._code = group.child.returncode if exited_by_itself else None
        finally:
            group.kill()  # kill the group also if the event loop itself is being closed
            self._folder_stack.close()
            for task in self._tasks:
                task.cancel()
            if self._reading is not None:
                self._reading.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await pipes.wait_drained([self._errors], 1.0)
        await pipes.close([self._errors, self._input])

    async def _read_messages(
        self, lines: asyncio.StreamReader, received: ObjectSendStream[SessionMessage | Exception]
    ) -> None:
        """Forward the program's messages until its output ends.

        Skip lines that are not messages.
        """
        from mcp.shared.message import SessionMessage
        from mcp_types import JSONRPCError

        async with received:
            while True:
                try:
                    line = await lines.readline()
                except ValueError:
                    self._limit_exceeded = "a line is"
                    break
                if not line:
                    self._output_ended = True
                    return
                self._read += len(line)
                if self._read > MAX_MESSAGE_BYTES and not self._called:
                    self._limit_exceeded = "its list of tools is"
                    break
                try:
                    message = _message(line)
                except (ValueError, RecursionError):
                    self._no_messages = (self._no_messages + line)[-MAX_ERROR_BYTES:]
                    continue
                if self.sent and isinstance(message, JSONRPCError):
                    self._codes.add(message.error.code)
                try:
                    await received.send(SessionMessage(message))
                except _CLOSED:
                    break
        # Read the remaining output, so that a full pipe does not prevent the program's exit.
        while await lines.read(2**16):
            pass

    async def _write_messages(
        self,
        to_send: ObjectReceiveStream[SessionMessage],
        received: ObjectSendStream[SessionMessage | Exception],
    ) -> None:
        # When ``received`` is closed, the waiting caller gets the error that no answer will come.
        async with to_send, received:
            async for each in to_send:
                line = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                if getattr(each.message, "method", "") == CALL_METHOD:
                    ended = self._group is not None and self._group.exited.is_set()
                    if ended or self._input.gone.is_set():
                        break  # The server has ended. A call that was not written has no effect.
                    self.sent = self._called = True
                    self._codes.clear()
                if not await self._input.write(line.encode() + b"\n"):
                    break


def _message(line: bytes) -> JSONRPCMessage:
    """Return the message of a line. Raise `ValueError` or `RecursionError` for any other line.

    A program that cuts an answer within a surrogate pair writes half of the pair, such as
    `\\ud83d`. Pydantic refuses it, because UTF-8 cannot contain it, so it becomes a question mark.
    """
    from mcp_types import jsonrpc_message_adapter

    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        if b"\\ud" not in line.lower():
            raise
        text = json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace")
        return jsonrpc_message_adapter.validate_json(text, by_name=False)


class _Input(pipes.InputPipe):
    """Pipe to standard input. A write waits until the program has read enough."""

    def __init__(self) -> None:
        super().__init__()
        self._writable = asyncio.Event()
        self._writable.set()

    async def write(self, data: bytes) -> bool:
        """Write ``data``. Return False if the program has closed its input."""
        if not self.gone.is_set():
            self._writer.write(data)
            await self._writable.wait()
        return not self.gone.is_set()

    def close(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._writable.set()

    @property
    def _writer(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self.transport)
