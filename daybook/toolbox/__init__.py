"""Tools with which agents use Daybook, the same for every kind of client.

Each is an `agents.base.Tool`: a name, a description, a flat schema, and a call that returns text
which a model can act on. `daybook.mcp` serves them, `toolset`, `Skill` and `schedule_tool` offer
them to the agents of programs, and the `agent-prompt` flow to an agent in its run. They act for
`owners.current_actor()`, and only through `daybook.api`.

`TOOLS` are the definitions; `call` calls one by name and never raises for invalid names or
arguments. Importing this package imports neither Prefect nor a database.
"""

from daybook.toolbox.invocation import NotDone, ToolAnswer
from daybook.toolbox.tools import BY_NAME, TOOLS, call

__all__ = ["BY_NAME", "TOOLS", "NotDone", "ToolAnswer", "call"]
