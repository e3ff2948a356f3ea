"""Invocation of tools, with parsed arguments, and with errors as text for the model and in the log.

The text of a `DaybookError` describes how to correct the call. For any other error, the model
gets no details, and the log of this process has them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from daybook import owners
from daybook.agents.base import Tool
from daybook.errors import DaybookError, NotFound, Unreachable
from daybook.redaction import redact_tokens
from daybook.short_text import one_line
from daybook.toolbox import arguments
from daybook.toolbox.arguments import Argument, Arguments
from daybook.toolbox.text import hint

log = logging.getLogger(__name__)

ToolFunction = Callable[[Arguments], Awaitable[str]]


@dataclass(frozen=True)
class ToolAnswer:
    """The answer of a call. If the call failed, ``refused`` is true and ``text`` is the reason."""

    text: str
    refused: bool = False


class NotDone(DaybookError):
    """An error with a text for an agent: the problem, and the next step."""

    code = "not_done"


def guarded(name: str, takes: tuple[Argument, ...], does: ToolFunction) -> ToolFunction:
    """Return a function that parses the arguments of a tool and calls ``does`` with them.

    The function logs all errors, and raises only `DaybookError`.
    """

    async def call(given: Arguments) -> str:
        try:
            return await does(arguments.read(takes, given))
        except DaybookError as error:
            text = _error_text(error)
            log_refusal(name, text)
            if text == str(error):
                raise
            raise NotDone(text) from error
        except Exception as error:
            log.exception("%s failed", name, extra={"action": "tool_crashed", "tool": name})
            text = f"{name} failed inside Daybook; the operator's log says why"
            raise NotDone(text) from error

    return call


def define_tool(
    name: str, description: str, does: ToolFunction, *takes: Argument, **flags: bool
) -> Tool:
    """Return a tool that takes these arguments. Pass ``flags`` to `Tool`."""
    call = guarded(name, takes, does)
    schema = arguments.schema(takes)
    return Tool(name, description, schema, call, **flags)  # type: ignore[arg-type]  # `skipped`


def _error_text(error: DaybookError) -> str:
    text = redact_tokens(one_line(error))
    match error:
        case NotFound(noun="job"):
            text += hint("cron_list", "; {} lists your jobs")
        case NotFound() if "run" in error.noun:
            text += hint("cron_runs", "; {} lists the runs of a job")
        case Unreachable():
            text += " (only the operator can fix this; the call may still have had"
            text += " an effect, so check before you repeat it)"
    return text


def log_refusal(tool: str, text: str) -> None:
    owner = owners.current_actor().owner
    extra = {"action": "agent_refused", "owner": owner, "tool": tool, "error": text}
    log.warning("%s called %s, which was refused: %s", owner, loggable(tool), text, extra=extra)


def loggable(tool: str) -> str:
    """Return a tool's name, perhaps an invented one, in a form that is safe to log."""
    return tool if tool.isidentifier() and len(tool) < 100 else repr(tool)[:100]
