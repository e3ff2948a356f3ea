"""Tools that a job or an agent calls: Python tools, and the tools of MCP servers.

::

    catalog.find ─► the tool: its description and its schema ─► schemas.mismatch
                       │                                              │
    calls.prepare ─────┴──► fill in secrets, validate params, connect
                                                                      │
    calls.call ────────────────────────────► call once, and close ◄───┘

- A Python tool is an entry point of the group ``daybook.tools``, or a registered function
  (`python_tools`).
- A server is a program (`stdio`) or has an address (`http`). It is saved as a block
  (`server_blocks`), or its address is in the job itself.
- `connection` is the MCP client for both. `wire` tracks, below the protocol, what was sent and
  answered, which decides whether a call may be repeated (promise 4: a call that was sent and not
  answered is `unknown` unless the job is idempotent).
- `pool` keeps a connection open while an agent answers, for all calls that it makes.

Nothing that a server sends is trusted: neither its names and schemas nor the length of its
messages.

Authors of Python tools import `daybook.errors.Temporary` and `occurrence`.
"""

from contextvars import ContextVar

__all__ = ["occurrence"]


OCCURRENCE: ContextVar[str] = ContextVar("daybook_occurrence", default="")


def occurrence() -> str:
    """Return the idempotency key of the call, the same in every attempt; "" outside of a call.

    If a tool passes the key on to another service, that service can ignore a repeated call.
    """
    return OCCURRENCE.get()
