"""`daybook.Client.sessions`: the operations of `daybook session`, for programs.

They are only for the operator, and raise `InvalidInput` for an agent.
"""

from __future__ import annotations

from daybook.api import sessions
from daybook.api.blocking import blocking
from daybook.api.task_client import Operations, operation_method


class Sessions(Operations):
    """The operations of `daybook session`."""

    list = operation_method(sessions.list_sessions)
    get = operation_method(sessions.show)
    send = operation_method(sessions.send)


class SyncSessions:
    """`Sessions` without `await`."""

    def __init__(self, client: Sessions) -> None:
        self.client = client

    list = blocking(Sessions.list)
    get = blocking(Sessions.get)
    send = blocking(Sessions.send)
