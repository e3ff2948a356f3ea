"""What agents may do with Daybook: tools, the same for every kind of client.

Each is an `agents.base.Tool`: a name, a description, a flat schema, and a call that answers in
words which a model can act on. `daybook.mcp` serves them, `daybook.api` gives them to programs,
and the flow of `agent-prompt` to an agent in its run. They work for whoever
`daybook.owners.current` says, and through `daybook.api` alone.

`TOOLS` are the definitions, `call` is the edge for who has a name and arguments: it never raises
for what is wrong with them. Importing this imports neither Prefect nor a database.
"""

from daybook.toolbox.invocation import Answer, NotDone, call
from daybook.toolbox.tools import BY_NAME, TOOLS

__all__ = ["BY_NAME", "TOOLS", "Answer", "NotDone", "call"]
