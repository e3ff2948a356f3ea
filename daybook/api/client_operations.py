"""Group of operations of a client: `sessions`.

Each method calls an operation for the client's actor, and has the operation's signature and
docstring. The operations are only for the operator; for an agent they raise `InvalidInput`.
"""

from __future__ import annotations

from daybook.api import sessions
from daybook.api.client_methods import Blocking, Operations, operation


class Sessions(Operations):
    """The operations of `daybook session`."""

    list = operation(sessions.list_sessions)
    get = operation(sessions.show)
    send = operation(sessions.send)
    reply = operation(sessions.reply)
    start = operation(sessions.start)


class SyncSessions(Blocking, Sessions):
    """`Sessions` without `await`."""
