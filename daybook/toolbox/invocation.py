"""The edge of every tool: what comes in is read, what goes wrong becomes words, and is logged.

An error of Daybook's says what to write instead. Anything else is told without its insides, which
stand in the log of this process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daybook import owners
from daybook.agents.base import Tool
from daybook.errors import DaybookError, InvalidInput, NotFound, TokenRefused, Unreachable, one_line
from daybook.tasks.model import without_tokens
from daybook.toolbox import arguments
from daybook.toolbox.arguments import Argument
from daybook.toolbox.hints import hint

log = logging.getLogger(__name__)

Does = Callable[[dict[str, Any]], Awaitable[str]]


@dataclass(frozen=True)
class Answer:
    """What a call answers; ``refused``: nothing was done, and the text says why."""

    text: str
    refused: bool = False


class NotDone(DaybookError):
    """What an agent reads of an error: the sentence, and what to do next."""

    code = "not_done"


def guarded(name: str, takes: tuple[Argument, ...], does: Does) -> Does:
    """The call of a tool: ``does`` with the arguments read. Raises `DaybookError`, logged."""

    async def call(given: dict[str, Any]) -> str:
        try:
            return await does(arguments.read(takes, given))
        except DaybookError as error:
            told = _told(error)
            _log(name, told)
            if told == str(error):
                raise
            raise NotDone(told) from error
        except Exception as error:
            log.exception("%s failed", name, extra={"action": "tool_crashed", "tool": name})
            told = f"{name} failed inside Daybook; the operator's log says why"
            raise NotDone(told) from error

    return call


def tool(
    name: str, description: str, does: Does, *takes: Argument, read_only: bool = False
) -> Tool:
    """A tool that takes these arguments."""
    call = guarded(name, takes, does)
    return Tool(name, description, arguments.schema(takes), call, read_only)


async def call(name: str, given: Mapping[str, Any] | None = None) -> Answer:
    """Call a tool by its name, as whoever `owners.current` says; never raises for what is wrong."""
    from daybook.toolbox.tools import BY_NAME

    tool = BY_NAME.get(name)
    if tool is None:
        name = without_tokens(name)
        told = f"there is no tool {_named(name)} (known: {', '.join(BY_NAME)})"
        _log(name, told)
        return Answer(told, refused=True)
    try:
        return Answer(await tool.call(dict(given or {})))
    except DaybookError as error:
        return Answer(str(error), refused=True)


def _told(error: DaybookError) -> str:
    told = without_tokens(one_line(error))
    match error:
        case NotFound(noun="task session"):
            told += hint("task_session_register", "; {} makes one")
        case NotFound(noun="task run"):
            told += hint("task_next", "; {} claims one")
        case TokenRefused():
            told += "; the run is not yours: stop working on it"
            told += hint("task_next", ", {} claims another")
        case NotFound(noun="job"):
            told += hint("cron_list", "; {} shows the jobs that you have")
        case NotFound() if "run" in error.noun:
            told += hint("cron_runs", "; {} shows what became of a job's runs")
        case InvalidInput(field="schedule") if (
            "duration" in error.problem
        ):  # a day was meant, or a time
            told += '; for times of the day write a cron expression, such as "0 9 * * 1-5"'
        case Unreachable():
            told += " (that is the operator's to mend; nothing was changed)"
    return told


def _log(tool: str, told: str) -> None:
    owner = owners.current().owner
    extra = {"action": "agent_refused", "owner": owner, "tool": tool, "error": told}
    log.warning("%s: %s is refused: %s", owner, _named(tool), told, extra=extra)


def _named(tool: str) -> str:
    """A name as it may stand in a log: who calls may have made it up."""
    return tool if tool.isidentifier() and len(tool) < 100 else repr(tool)[:100]
