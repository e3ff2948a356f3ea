"""Tools with which agents use Daybook, the same for every kind of client.

Each tool is an `agents.base.Tool`: a name, a description, a flat schema, and a call. The call
returns its answer as text for a model. `daybook.mcp` serves the tools. `toolset`, `Skill` and
`schedule_tool` offer them to the agents of programs, and the `agent-prompt` flow offers them to the
agent of a run. The tools act for `owners.current_actor()`, through `daybook.api`.

`agent_tools` are the tools for all callers, and `operator_tools` those that no agent has. `call`
calls a tool by name; for an invalid name or argument it returns an answer and raises no error.
Importing this package imports neither Prefect nor a database.

To add a tool, write its definition in `tools`, the function that it calls in `calls`, and the text
of its answer in `text`. A feature adds tools, too (`daybook.feature`). The flags of a definition
(`read_only`, `destructive`, `idempotent`, `open_world`) become its MCP annotations, and each
`Argument` has the limits of its value. All clients then have a tool of `agent_tools`, and the
operator's clients have a tool of `operator_tools`. Describe it in docs/guides/mcp.md, add its name
to tests/unit/toolbox/test_definitions.py, and update tests/snapshots/mcp-tools.json, which records
the tools as MCP clients see them. Add a tool that only reads also to tests/e2e/mcp/test_clients.py
and tests/unit/mcp/test_http.py.
"""

from daybook.toolbox.invocation import NotDone, ToolAnswer
from daybook.toolbox.tools import agent_tools, by_name, call, operator_tools, tools_of

__all__ = ["NotDone", "ToolAnswer", "agent_tools", "by_name", "call", "operator_tools", "tools_of"]
