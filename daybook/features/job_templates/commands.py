"""The `daybook new` command: a job from a template."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api, diagnosis
from daybook.cli import output
from daybook.cli.command import Answer, command
from daybook.cli.options import on_interrupt
from daybook.cli.runs import WaitReporter
from daybook.errors import InvalidInput, UnknownName
from daybook.jobs.actions import DEFAULT_AGENT

if TYPE_CHECKING:
    from daybook.features.job_templates.operations import TemplateInfo


@command(uses_prefect=True)
async def new_(
    template: Annotated[
        str | None, Parameter(help="Name of the template; without it, all are listed.")
    ] = None,
    /,
    *,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", help="An answer, as question=answer. Repeatable."),
    ] = None,
    agent: Annotated[str, Parameter(help="Agent that answers the job.")] = DEFAULT_AGENT,
    name: Annotated[str, Parameter(help="Name of the job. [default: the template's name]")] = "",
    yes: Annotated[bool, Parameter(help="Add the job without asking.")] = False,
    run: Annotated[bool, Parameter(help="Run the job once, and show its answer.")] = True,
) -> Answer:
    """Add a job from a template, such as a morning brief of pages and feeds.

    Asks the template's questions in a terminal, shows the job, adds it, gives its agent the tools
    that it needs, and runs it once. A template of your own is a folder in the home's `templates`.

    Example: daybook new pull-requests --set repository=astral-sh/uv
    """
    from daybook.features.job_templates import operations

    known = {each.name: each for each in await operations.list_templates()}
    if template is None:
        yield list(known.values())
        _print_templates(list(known.values()))
        return
    if template not in known:
        raise UnknownName("template", template, list(known))
    asks = sys.stdin.isatty() and not yes
    answers = _given(set_ or ())
    for question, each in known[template].questions.items():
        if question not in answers and asks:
            answers[question] = _ask(each.ask, each.default)
    prepared = await operations.prepare(template, answers, agent=agent, job=name)
    if asks:
        output.say(prepared.file.rstrip())
        if prepared.note:
            output.say(f"! {prepared.note}")
        if prepared.missing_tools:
            output.say(f"The agent {agent} gets the tools {', '.join(prepared.missing_tools)}.")
        if _ask("Add this job?", "yes").lower() not in ("y", "yes"):
            raise InvalidInput("job", "was not added", "answer yes to add it")
    added = await operations.add(template, answers, agent=agent, job=name)
    yield added
    output.line(f"Added {added.job.name} ({added.job.id[:8]})")
    output.fields([("schedule", added.job.words), added.job.action.brief()])
    if added.added_tools:
        output.say(f"The agent {agent} has the tools {', '.join(added.added_tools)} now.")
    for note in filter(None, (prepared.note, *added.job.notes)):
        output.say(f"! {note}")
    if not run:
        return
    if not await diagnosis.status.worker_online():
        output.say("No worker is online, so the job does not run yet. Start one: daybook up")
        return
    made = await api.runs.run(added.job.id, wait=True, talk=WaitReporter(quiet=False))
    output.line(f"{added.job.name}: {made.status}")
    output.line((made.output or made.error or made.reason or "").rstrip())


def _print_templates(known: list[TemplateInfo]) -> None:
    rows = [(each.name, each.does) for each in known]
    output.table(("TEMPLATE", "WHAT ITS JOB DOES"), rows, whole=("TEMPLATE",))
    output.say("Add one: daybook new TEMPLATE")


def _given(pairs: list[str] | tuple[str, ...]) -> dict[str, str]:
    answers = {}
    for pair in pairs:
        question, found, answer = pair.partition("=")
        if not found or not question.strip():
            raise InvalidInput("set", f'"{pair}" is no answer', "write --set question=answer")
        answers[question.strip()] = answer
    return answers


def _ask(question: str, default: str) -> str:
    print(f"{question} [{default}] " if default else f"{question} ", end="", file=sys.stderr)
    sys.stderr.flush()
    with on_interrupt():
        typed = sys.stdin.readline()
    return typed.strip() or (default if typed else "")
