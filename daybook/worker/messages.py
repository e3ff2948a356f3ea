"""What the worker, the parent of its children and a child say to each other.

Messages are JSON objects on a stream socket, each behind its length: four bytes, network order.
A `Task` travels with two descriptors (`socket.send_fds`): the output file and the writing end of
the status pipe.

::

    worker → parent   {"number", "task"} + 2 descriptors · {"tick"} · {"import": [name, …]}
    parent → worker   {"ready": threads} · {"number", "pid", "start"} · {"number", "refused"}
                      {"threads": count, "after": name} · {"exited": pid, "code"}
                      {"silent": seconds, "ending": [pid, …]}
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True)
class Task:
    """One process to be started.

    ``flow_run`` is Prefect's flow run as JSON. The modes:

    - ``ours``: a flow of this repository; ``kind`` names it (``agent-prompt``), and ``handover``
      is what `daybook.execution.handover.receive` gets beside the descriptor of the status pipe.
    - ``engine``: any flow, as Prefect's own process worker enters it; with ``command`` that
      command line instead of ``python -m prefect.engine``.
    - ``hooks``: the flow's hooks for ``hook``, with the flow run and its state.

    ``environment`` is the whole environment of the process; empty: the launcher's own. ``folder``
    is where it stands; empty: the repository for ``ours``, else wherever the launcher works.
    """

    flow_run: dict[str, Any]
    mode: Literal["ours", "engine", "hooks"]
    kind: str = ""
    handover: dict[str, Any] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    command: str = ""
    hook: Literal["", "crashed", "cancelled"] = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def frame(message: Mapping[str, Any]) -> bytes:
    """The message as it goes over the socket."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Messages out of a stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that ``data`` completes."""
        self._held += data
        complete = []
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            end = _LENGTH.size + length
            if len(self._held) < end:
                break
            complete.append(json.loads(self._held[_LENGTH.size : end]))
            del self._held[:end]
        return complete
