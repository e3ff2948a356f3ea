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
- `connection` is the MCP client for both. `wire` records, below the protocol, whether a call was
  sent and answered. Only with this knowledge can Daybook decide whether to repeat the call (promise
  4: a call that was sent and not answered is `unknown` unless the job is idempotent).
- `pool` leaves a connection open while an agent answers, for all calls of the agent.
- `answers` converts an answer to the text and the JSON value that a run stores.
- `worker_tools` records the Python tools that each running worker can call.

Daybook trusts neither the names and schemas that a server sends nor the length of its messages. For
the calls of an agent, it trusts two hints of a tool: that the tool changes nothing, and that a
second equal call has no further effect (`connection.ToolDescription`).

Authors of Python tools import `daybook.errors.Temporary` and `occurrence`.
"""

from contextvars import ContextVar

__all__ = ["occurrence"]


OCCURRENCE: ContextVar[str] = ContextVar("daybook_occurrence", default="")


def occurrence() -> str:
    """Return the idempotency key of the current call. Outside of a call, return "".

    The key is the same in every attempt. If a tool passes the key to another service, that service
    can ignore a repeated call.
    """
    return OCCURRENCE.get()
