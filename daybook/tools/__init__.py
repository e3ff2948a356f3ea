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
- `connection` is the MCP client for both. `wire` tracks, below the protocol, whether a call was
  sent and answered. This decides whether the call may be repeated (promise 4: a call that was sent
  and not answered is `unknown` unless the job is idempotent).
- `pool` keeps a connection open while an agent answers, for all calls that the agent makes.

Daybook trusts nothing that a server sends: neither its names and schemas nor the length of its
messages.

Authors of Python tools import `daybook.errors.Temporary` and `occurrence`.
"""

from contextvars import ContextVar

__all__ = ["occurrence"]


OCCURRENCE: ContextVar[str] = ContextVar("daybook_occurrence", default="")


def occurrence() -> str:
    """Return the idempotency key of the current call; "" outside of a call.

    The key is the same in every attempt. If a tool passes the key on to another service, that
    service can ignore a repeated call.
    """
    return OCCURRENCE.get()
