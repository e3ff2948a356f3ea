"""The tool `run_files` of MCP clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daybook.toolbox.arguments import Argument
from daybook.toolbox.invocation import define_tool

MAX_PART_CHARACTERS = 20_000
MAX_START = 10_000_000


async def _run_files(given: Mapping[str, Any]) -> str:
    from daybook.api import run_files

    run, path, start = given["run"], given.get("path"), given["start"]
    if not path:
        found = await run_files.of_run(run)
        lines = [
            f"- {each.path}: {each.size:,} bytes, SHA-256 {each.digest}, "
            f"kept: {each.kept_in_words()}"
            for each in found
        ]
        text = "\n".join(lines) or "This run has written no file with its tools."
    else:
        text = (await run_files.read(run, path)).content.decode(errors="replace")
    part = text[start : start + MAX_PART_CHARACTERS]
    end = start + len(part)
    more = f"Characters {start:,} to {end:,} of {len(text):,}" if start or end < len(text) else ""
    following = f"; read the next part with start={end}" if end < len(text) else ""
    return f"{more}{following}\n{part}" if more else part


TOOLS = (
    define_tool(
        "run_files",
        "List the files that a run has written with its tools, or read one as the run wrote it.",
        _run_files,
        Argument("run", "Id of a run, or a job for its last run.", None, write="name a run"),
        Argument("path", "A path of the list. Default: list the files."),
        Argument("start", "Character at which to begin.", 0, least=0, most=MAX_START),
        read_only=True,
    ),
)
