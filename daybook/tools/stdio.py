"""A server that is a program: a message a line, by its pipes. It is started for each call of a job,
and once for all calls of an agent that is answering.

::

    start ─► messages ─┬─► gently: input closed, up to PATIENCE seconds to end by itself ─┐
                       └─► the time was up, a cancel, a fault ────────────────────────────┴─► group
                                                                                       ended, reaped

The library's own way would leave what a server began when the server itself has ended, would read a
line of any length, and would pass on more of the environment than the operator names.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

from daybook.errors import InvalidInput, ToolUnreachable
from daybook.processes import environment, locations, pipes
from daybook.processes.ending import wait_shielded
from daybook.processes.group import Group
from daybook.tools.answers import Hide
from daybook.tools.server_blocks import ToolServerSettings
from daybook.tools.wire import CALL, LONGEST, Fault

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage

PATIENCE = 2.0
"""Seconds in which a server whose input was closed may end by itself."""

ERRORS_LIMIT = 8 * 1024
"""Bytes of the end of standard error that are kept."""

SHOWN_ERRORS = 2_000
"""Characters of it that a message tells."""

_BUSY = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_CLOSED = (anyio.ClosedResourceError, anyio.BrokenResourceError)


class ProgramWire:
    """A connection to a program with these settings, which it starts; ``name`` is the server's.

    ``hide`` takes the secrets of a call out of what it says on standard error.
    """

    def __init__(self, name: str, settings: ToolServerSettings, hide: Hide = str) -> None:
        self.sent = False
        self._called = False
        self._name = name
        self._settings = settings
        self._hide = hide
        self._variables = environment.allowed(settings.environment)
        self._gently = False
        self._codes: set[int] = set()
        self._errors = pipes.TailPipe(ERRORS_LIMIT)
        self._input = _Input()
        self._place = ExitStack()
        self._group: Group | None = None
        self._reading: asyncio.BaseTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._too_long = ""
        self._read = 0
        self._silent = False
        self._code: int | None = None

    async def __aenter__(self) -> TransportStreams:
        """Raises `InvalidInput` and `ToolUnreachable` where the program cannot be started."""
        from mcp.shared.message import SessionMessage

        group = self._group = self._started()
        try:
            lines = await self._connected(group.child)
        except BaseException:
            await self._ended()
            raise
        heard, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        said, to_say = anyio.create_memory_object_stream[SessionMessage](0)
        self._tasks = [
            asyncio.create_task(self._listen(lines, heard)),
            asyncio.create_task(self._say(to_say, heard)),
        ]
        return messages, said

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._ended()

    def begin(self) -> None:
        self.sent = False
        self._codes.clear()

    def gently(self) -> None:
        self._gently = True

    def came(self, code: int) -> bool:
        return code in self._codes

    def fault(self) -> Fault | None:
        if self._too_long:
            told = f"{self._program}: {self._too_long} longer than {LONGEST:,} bytes"
            return Fault(told, refused=True)
        if self._code is None:
            return None
        return Fault(self.explained(f"{self._program} {_end(self._code)}"))

    def explained(self, told: str) -> str:
        text = bytes(self._errors.kept).decode(errors="replace").strip()
        # Cut afterwards: a part of a secret would not be found.
        text = environment.redact_values(self._hide(text), self._variables)[-SHOWN_ERRORS:]
        return f"{told}; it said: {text}" if text else f"{told}; it said nothing on standard error"

    @property
    def _program(self) -> str:
        return Path(self._settings.command[0]).name

    def _started(self) -> Group:
        command = self._settings.command
        try:
            folder = self._place.enter_context(
                locations.run_folder(self._settings.work_dir, prefix="daybook-tool-")
            )
            program = locations.find_program(command[0], folder, self._variables)
            return Group([program, *command[1:]], folder=folder, environment=self._variables)
        except (OSError, ValueError) as error:
            self._place.close()
            why = str(error)
            if isinstance(error, OSError):
                why = f"{self._program} cannot be started: {error.strerror}"
                if error.errno in _BUSY:
                    raise ToolUnreachable(f'the tool server "{self._name}": {why}') from None
            raise InvalidInput("tool", f'the server "{self._name}": {why}') from None

    async def _connected(self, child: subprocess.Popen[bytes]) -> asyncio.StreamReader:
        lines = asyncio.StreamReader(limit=LONGEST)
        heard = asyncio.StreamReaderProtocol(lines)
        self._reading, _ = await pipes.attach(child, heard, self._errors, self._input)
        return lines

    async def _ended(self) -> None:
        await wait_shielded(asyncio.create_task(self._end()))

    async def _end(self) -> None:
        group = self._group
        assert group is not None
        try:
            self._input.close()
            if self._gently or self._silent:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        await group.exited.wait()
            by_itself = group.exited.is_set()
            await group.end()
            self._code = group.child.returncode if by_itself else None
        finally:
            group.kill()  # where the loop itself is being torn down
            self._place.close()
            for task in self._tasks:
                task.cancel()
            if self._reading is not None:
                self._reading.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await pipes.wait_drained([self._errors], 1.0)
        await pipes.close([self._errors, self._input])

    def _gone(self) -> bool:
        """Whether nobody would read a call: what is not written has had no effect."""
        ended = self._group is not None and self._group.exited.is_set()
        return ended or self._input.gone.is_set()

    async def _listen(
        self, lines: asyncio.StreamReader, heard: ObjectSendStream[SessionMessage | Exception]
    ) -> None:
        """What the program says, until it says no more; what is no message is passed over."""
        from mcp.shared.message import SessionMessage
        from mcp_types import JSONRPCError, jsonrpc_message_adapter

        async with heard:
            while True:
                try:
                    line = await lines.readline()
                except ValueError:
                    self._too_long = "a line is"
                    break
                if not line:
                    self._silent = True
                    return
                self._read += len(line)
                if self._read > LONGEST and not self._called:
                    self._too_long = "what it says of its tools is"
                    break
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    continue
                if self.sent and isinstance(message, JSONRPCError):
                    self._codes.add(message.error.code)
                try:
                    await heard.send(SessionMessage(message))
                except _CLOSED:
                    break
        while await lines.read(2**16):  # so that it is not held up while it ends
            pass

    async def _say(
        self,
        to_say: ObjectReceiveStream[SessionMessage],
        heard: ObjectSendStream[SessionMessage | Exception],
    ) -> None:
        async with to_say, heard:  # at its end, who waits for an answer learns that none comes
            async for each in to_say:
                line = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                if getattr(each.message, "method", "") == CALL:
                    if self._gone():
                        break
                    self.sent = self._called = True
                    self._codes.clear()
                if not await self._input.write(line.encode() + b"\n"):
                    break


def _end(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class _Input(pipes.InputPipe):
    """Standard input, written to as fast as it is read."""

    def __init__(self) -> None:
        super().__init__()
        self._room = asyncio.Event()
        self._room.set()

    async def write(self, data: bytes) -> bool:
        """Whether it was taken; not, where the program has closed it."""
        if not self.gone.is_set():
            self._writer.write(data)
            await self._room.wait()
        return not self.gone.is_set()

    def close(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._room.set()

    @property
    def _writer(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self.transport)
