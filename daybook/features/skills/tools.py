"""Each skill as a tool: a model sees its name and description, and loads its text and files."""

from __future__ import annotations

from collections.abc import Sequence

from daybook.agents.base import Tool
from daybook.errors import InvalidInput
from daybook.execution import tool_arguments
from daybook.execution.builtin_tools import ToolContext
from daybook.features.skills import folder, operations
from daybook.features.skills.folder import SKILL_FILE
from daybook.features.skills.operations import SkillSummary
from daybook.json_text import JsonObject
from daybook.short_text import clip, first_names

MAX_PART_CHARACTERS = 20_000
MAX_LISTED_FILES = 100
MAX_DESCRIPTION = 1_024
"""Maximum length of a tool's description; some providers refuse a longer one."""
_DIGEST_CHARACTERS = 12

_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "default": "",
            "description": "A file of the skill; empty for its instructions and the list of files.",
        },
        "start": {
            "type": "integer",
            "minimum": 0,
            "default": 0,
            "description": "Character at which to begin, for the next part of a long file.",
        },
    },
    "additionalProperties": False,
}


async def skill_tools(context: ToolContext) -> Sequence[Tool]:
    """Return a tool for each skill. Raise the errors of the ledger."""
    return [_tool(each) for each in await operations.list_skills()]


def _tool(skill: SkillSummary) -> Tool:
    async def call(arguments: JsonObject) -> str:
        return await _load(skill.name, arguments)

    description = f"Load the instructions of this skill before you use it. {skill.description}"
    return Tool(skill.name, clip(description, MAX_DESCRIPTION), _SCHEMA, call, read_only=True)


async def _load(name: str, arguments: JsonObject) -> str:
    file, start = tool_arguments.text(arguments, "file", ""), tool_arguments.start(arguments)
    skill = await operations.show(name)
    head = f"Skill {name}, version {skill.digest[:_DIGEST_CHARACTERS]}"
    if not file or file == SKILL_FILE:
        text = skill.text
        others = [each.path for each in skill.files if each.path != SKILL_FILE]
        if others:
            head += f"\nFiles: {first_names(others, MAX_LISTED_FILES)}"
    else:
        content = await operations.read_file(name, file)
        if content is None:
            known = ", ".join(each.path for each in skill.files[:MAX_LISTED_FILES])
            raise InvalidInput("file", f"the skill has no {file[:200]!r}", f"use one of: {known}")
        found = folder.text_of(content)
        if found is None:
            raise InvalidInput("file", "is no text", "load a file of text")
        text, head = found, f"{head}\nFile: {file}"
    part = text[start : start + MAX_PART_CHARACTERS]
    end = start + len(part)
    more = f"\nNext part: start={end} of {len(text):,}" if end < len(text) else ""
    return f"{head}{more}\n\n{part}"
