"""Messages between the worker and the parent process of its runs.

Messages are JSON objects on a stream socket, each preceded by its length: four bytes, network
order. A `LaunchRequest` travels with two descriptors (`socket.send_fds`): the output file and the
write end of the status pipe.

::

    worker → parent   {"number", "task"} + 2 descriptors · {"tick"} · {"import": [name, …]}
    parent → worker   {"ready": threads} · {"number", "pid", "start"} · {"number", "refused"}
                      {"threads": count, "after": name} · {"exited": pid, "code"}
                      {"untouchable": pid} · {"silent": seconds, "ending": [pid, …]}
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from daybook.json_text import JsonObject

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True)
class LaunchRequest:
    """Request to start one process.

    ``flow_run`` is Prefect's flow run as JSON. ``mode`` is one of these:

    - ``ours``: run a flow of Daybook. ``kind`` names it (``agent-prompt``), and ``handover`` has
      the arguments of `daybook.execution.handover.receive` except the status pipe's descriptor.
    - ``engine``: run any flow as Prefect's own process worker does; ``command``, if not empty,
      replaces ``python -m prefect.engine``.
    - ``hooks``: run the flow's hooks for ``hook``, with the flow run and its state.

    ``environment`` is the whole environment of the process; if empty, the process gets the
    launcher's environment. ``folder`` is the working directory of the process; if empty, the mode
    ``ours`` uses the repository, and the other modes use the launcher's ``folder``. The parent
    process sets ``parent_pid``. ``known`` has the records of Prefect that the worker has read
    (`daybook.prefect.known_answers`).
    """

    flow_run: JsonObject
    mode: Literal["ours", "engine", "hooks"]
    kind: str = ""
    handover: JsonObject | None = None
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    command: str = ""
    hook: Literal["", "crashed", "cancelled"] = ""
    parent_pid: int = 0
    known: dict[str, JsonObject] = field(default_factory=dict)

    def as_json(self) -> JsonObject:
        return asdict(self)


def frame(message: Mapping[str, Any]) -> bytes:
    """Encode a message for the socket, preceded by its length."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Decoder of messages from a stream; the data may arrive in parts of any length."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[JsonObject]:
        """Return the messages that ``data`` completes."""
        self._buffer += data
        complete = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            complete.append(json.loads(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return complete


@dataclass(frozen=True)
class ProcessSpec:
    """Process settings from the work pool and the deployment, as in `LaunchRequest`."""

    environment: dict[str, str]
    folder: str
    command: str
    known: dict[str, JsonObject] = field(default_factory=dict)
