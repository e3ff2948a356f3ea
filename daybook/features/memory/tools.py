"""The tools `memory.read`, `memory.append`, `memory.replace` and `memory.search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.agents.base import Tool
from daybook.errors import InvalidInput
from daybook.execution import tool_arguments
from daybook.execution.builtin_tools import ToolContext, call_key
from daybook.features.memory import notebooks
from daybook.features.memory.notebooks import Writer
from daybook.features.memory.tables import NotebookRow, VersionRow
from daybook.json_text import JsonObject
from daybook.ledger import texts
from daybook.ledger.engine import Ledger, reading
from daybook.ledger.tables import JobRow
from daybook.short_text import one_line

MAX_PART_CHARACTERS = 20_000
"""Maximum length of one answer: about five thousand tokens."""
MAX_LINES = 50
"""Maximum number of lines that a search returns."""
MAX_LINE_CHARACTERS = 300
MAX_WORDS_CHARACTERS = 400

_NOTEBOOK = {
    "type": "string",
    "description": "Name of a shared notebook. Leave it out for the job's own notebook.",
}


async def memory_tools(context: ToolContext) -> Sequence[Tool]:
    """Return the tools. Their calls raise `InvalidInput` in a run without a job."""
    memory = JobMemory(context)
    return (
        _tool(
            "read",
            "Read your notes from earlier runs of this job.",
            memory.read,
            start={
                "type": "integer",
                "minimum": 0,
                "default": 0,
                "description": "Character at which to begin, for the next part of a long text.",
            },
            read_only=True,
        ),
        _tool(
            "search",
            "Find the lines of your notes that contain all of the words.",
            memory.search,
            words={"type": "string", "description": "Words, in upper or lower case."},
            read_only=True,
        ),
        _tool(
            "append",
            "Add a text at the end of your notes, on a new line. Later runs of this job read it.",
            memory.append,
            text={"type": "string", "description": "The text, such as Markdown."},
            idempotent=True,
        ),
        _tool(
            "replace",
            "Replace a text in your notes, which occurs there exactly once.",
            memory.replace,
            old={
                "type": "string",
                "description": 'The text as it is, character by character; "" if the notebook is '
                "empty.",
            },
            new={"type": "string", "description": 'The text in its place; "" removes it.'},
            idempotent=True,
            destructive=True,
        ),
    )


def _tool(
    name: str,
    description: str,
    call: Any,
    *,
    read_only: bool = False,
    idempotent: bool = False,
    destructive: bool = False,
    **arguments: JsonObject,
) -> Tool:
    schema = {
        "type": "object",
        "properties": {**arguments, "notebook": _NOTEBOOK},
        "required": [each for each in arguments if "default" not in arguments[each]],
        "additionalProperties": False,
    }
    return Tool(
        name,
        description,
        schema,
        call,
        read_only=read_only,
        idempotent=idempotent,
        destructive=destructive,
    )


class JobMemory:
    """The notebooks that the runs of the context's job may use."""

    def __init__(self, context: ToolContext) -> None:
        self._context = context

    @property
    def _job(self) -> JobRow:
        if (job := self._context.granted.job) is None:
            hint = "add a job for this prompt, or answer without notes"
            raise InvalidInput("notebook", "a run without a job has none", hint)
        return job.row

    async def read(self, arguments: JsonObject) -> str:
        """Return a part of the text, with its place. Raise `InvalidInput`."""
        start = tool_arguments.start(arguments)
        text = await self._text(arguments)
        if not text:
            return EMPTY
        if start >= len(text):
            raise InvalidInput("start", "is behind the end", f"the text ends at {len(text)}")
        part = text[start : start + MAX_PART_CHARACTERS]
        end = start + len(part)
        if not start and end == len(text):
            return part
        rest = f"; read the next part with start={end}" if end < len(text) else ""
        return f"Characters {start:,} to {end:,} of {len(text):,}{rest}\n{part}"

    async def search(self, arguments: JsonObject) -> str:
        """Return the lines that contain all words, with their numbers. Raise `InvalidInput`."""
        given = tool_arguments.text(arguments, "words")
        words = given.casefold().split() if len(given) <= MAX_WORDS_CHARACTERS else []
        if not words:
            raise InvalidInput("words", "is blank or too long", "use a few words")
        text = await self._text(arguments)
        if not text:
            return EMPTY
        found, start = list[str](), 0
        for number, line in enumerate(text.split("\n"), start=1):
            folded = line.casefold()
            if all(word in folded for word in words):
                shown = one_line(line, MAX_LINE_CHARACTERS)
                found.append(f"line {number} (start={start}): {shown}")
            start += len(line) + 1
        if not found:
            return "No line contains all of these words."
        left = len(found) - MAX_LINES
        more = [f"and {left:,} more lines; use more words"] if left > 0 else []
        return "\n".join([*found[:MAX_LINES], *more])

    async def append(self, arguments: JsonObject) -> str:
        """Add a text on a new line. Raise `InvalidInput`."""
        added = tool_arguments.text(arguments, "text")
        if not added:
            raise InvalidInput("text", "is missing", "give it as a text")
        notebooks.check_size(added)

        def appended(text: str) -> str:
            return text + "\n" * bool(text and not text.endswith("\n")) + added

        return await self._write(arguments, appended)

    async def replace(self, arguments: JsonObject) -> str:
        """Replace a text that occurs once. Raise `InvalidInput`."""
        old, new = (
            texts.sanitize(tool_arguments.text(arguments, "old")),
            tool_arguments.text(arguments, "new"),
        )
        notebooks.check_size(new)

        def replaced(text: str) -> str:
            if not old and text:
                hint = "give the text to replace, or use memory_append"
                raise InvalidInput("old", "is empty, but the notebook is not", hint)
            if old and (count := text.count(old)) != 1:
                problem = f"occurs {count:,} times" if count else "does not occur in the notebook"
                hint = "give more of the text around it" if count else "read the notebook"
                raise InvalidInput("old", problem, hint)
            return text.replace(old, new, 1) if old else new

        return await self._write(arguments, replaced)

    async def _text(self, arguments: JsonObject) -> str:
        async with reading() as session:
            return await notebooks.text_of(session, await self._find(session, arguments))

    async def _find(self, session: AsyncSession, arguments: JsonObject) -> NotebookRow | None:
        """Return the notebook that the call names; None if the job's own does not exist yet."""
        name = arguments.get("notebook")
        if name in (None, ""):
            return await notebooks.of_job(session, self._job.id)
        return await notebooks.shared(
            session, tool_arguments.text(arguments, "notebook"), self._job.owner
        )

    async def _write(self, arguments: JsonObject, change: Callable[[str], str]) -> str:
        writer = Writer(self._context.granted.run_id, call_key())

        async def work(session: AsyncSession, ledger: Ledger) -> VersionRow:
            if (known := await notebooks.written(session, writer)) is not None:
                return known
            now, notebook = ledger.now(), await self._find(session, arguments)
            if notebook is None:
                notebook = NotebookRow(job_id=self._job.id, created_at=now)
            text = change(await notebooks.text_of(session, notebook))
            return await notebooks.write(session, notebook, text, writer, now)

        version = await self._context.write(work)
        return f"Version {version.number:,} of the notebook has {version.size:,} bytes."


EMPTY = "The notebook is empty."
