"""What a job calls: Python tools, and the tools of MCP servers (requirement 37).

::

    catalog.find ─► the tool: its description and its schema ─► schemas.mismatch
                       │                                              │
    calls.prepare ─────┴──► secrets filled in, params judged, connected
                                                                      │
    calls.call ────────────────────────────► called once, and closed ◄┘

- A Python tool is an entry point of the group ``daybook.tools`` (`python_tools`).
- A server is a saved block (`server_blocks`), a program (`stdio`) or an address (`http`), or an
  address in the job itself.
- `connection` is the MCP client over either. `wire` knows, beneath the protocol, what was sent and
  what was answered: of that depends whether a call may be repeated (rule 4 of `docs/promise.md`).
- `held` keeps a connection while an agent answers, for as many calls as it makes.

Nothing that a server says is trusted: its names, its schemas, the length of what it sends.

Who writes a Python tool imports `daybook.errors.Temporary` and `occurrence`.
"""

from daybook.tools.context import occurrence

__all__ = ["occurrence"]
