"""The `daybook skills` commands: instructions that agents load when they need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command

if TYPE_CHECKING:
    from daybook.features.skills.operations import SkillSummary

Name = Annotated[str, Parameter(help="The skill's name.")]


@command()
async def add_(
    source: Annotated[str, Parameter(help="A folder, or the address of a git repository.")],
    /,
    *,
    folder: Annotated[str, Parameter(help="The skill's folder in the repository.")] = "",
    replace: Annotated[bool, Parameter(help="Replace the skill of this name.")] = False,
) -> Answer:
    """Add a skill: a folder with a `SKILL.md` (https://agentskills.io).

    The ledger stores a copy of its files, at most 10 MB. An agent may load it if its tools list
    `skills`, or `skills.NAME`. Works without Prefect.

    Example: daybook skills add ./release-notes
    """
    from daybook.features.skills import operations

    added = await operations.add(source, folder=folder, replace=replace)
    yield added
    output.line(f"Saved the skill {added.name}")
    output.say(f"An agent may load it if its tools contain skills or skills.{added.name}:")
    output.say("daybook agents edit NAME --tool … (with all its tools)")


@command()
async def list_() -> Answer:
    """List the skills. Works without Prefect.

    Example: daybook skills list
    """
    from daybook.features.skills import operations

    listed = await operations.list_skills()
    yield listed
    if listed:
        rows = [(each.name, each.description, each.digest[:12]) for each in listed]
        output.table(("NAME", "DESCRIPTION", "VERSION"), rows, whole=("NAME",))
    else:
        output.line("There are no skills. Add one: daybook skills add FOLDER")


@command()
async def show_(name: Name, /) -> Answer:
    """Show a skill with its instructions and files. Works without Prefect.

    Example: daybook skills show release-notes
    """
    from daybook.features.skills import operations

    skill = await operations.show(name)
    yield skill
    files = "\n".join(f"{each.path} ({each.size:,} bytes)" for each in skill.files)
    _print_fields(skill, ("files", files))
    output.line("")
    output.line(skill.text.rstrip())


@command()
async def remove_(name: Name, /) -> Answer:
    """Remove a skill. Works without Prefect.

    A run whose agent lists the skill by its name then fails before it begins.

    Example: daybook skills remove release-notes
    """
    from daybook.features.skills import operations

    yield await operations.remove(name)
    output.line(f"Removed the skill {name}")


def _print_fields(skill: SkillSummary, *more: tuple[str, str]) -> None:
    output.fields(
        [
            ("name", skill.name),
            ("description", skill.description),
            ("source", skill.source),
            ("version", skill.digest),
            ("added", formatting.local_time(skill.added_at)),
            *more,
        ]
    )
