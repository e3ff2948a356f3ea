"""`daybook.Client.sessions`: the operations of `daybook session`, for programs.

They are only for the operator, and raise `InvalidInput` for an agent.
"""

from __future__ import annotations

from daybook.api import sessions
from daybook.api.operation_methods import Blocking, Operation, Operations


class Sessions(Operations):
    """The operations of `daybook session`."""

    list = Operation(sessions.list_sessions)
    get = Operation(sessions.show)
    send = Operation(sessions.send)


class SyncSessions(Blocking, Sessions):
    """`Sessions` without `await`."""
