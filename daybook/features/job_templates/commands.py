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
from daybook.errors import InvalidInput
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.ledger.states import FAILURES

if TYPE_CHECKING:
    from daybook.features.job_templates.library import Template
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
    from daybook.features.job_templates import library, operations

    if template is None:
        listed = await operations.list_templates()
        yield listed
        _print_templates(listed)
        return
    asks = sys.stdin.isatty() and not yes
    answers = _answered(library.template(template), _given(set_ or ()), asks=asks)
    if asks:
        prepared = await operations.prepare(template, answers, agent=agent, job=name)
        output.say(prepared.file.rstrip())
        if prepared.note:
            output.say(f"! {prepared.note}")
        if prepared.missing_tools:
            output.say(f"The agent {agent} gets the tools {', '.join(prepared.missing_tools)}.")
        if _ask("Add this job?", "yes").lower() not in ("y", "yes"):
            raise InvalidInput("job", "was not added", "answer yes to add it")
    added = await operations.add(template, answers, agent=agent, job=name)
    output.say(f"Added {added.job.name} ({added.job.id[:8]}): {added.job.words}")
    if added.added_tools:
        output.say(f"The agent {agent} has the tools {', '.join(added.added_tools)} now.")
    for note in added.notes:
        output.say(f"! {note}")
    if run and not await diagnosis.status.worker_online():
        output.say("No worker is online, so the job does not run yet. Start one: daybook up")
    elif run:
        reporter = WaitReporter(quiet=False)
        made = await api.runs.run(added.job.id, wait=True, talk=reporter)
        added = added.model_copy(update={"run": made})
    yield added, int(added.run is not None and added.run.status in FAILURES)
    if (ended := added.run) is not None:
        output.line(f"{added.job.name}: {ended.status}")
        output.line((ended.output or ended.error or ended.reason or "").rstrip())


def _print_templates(known: list[TemplateInfo]) -> None:
    rows = [(each.name, each.does or f"! {each.problem}") for each in known]
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


def _answered(template: Template, given: dict[str, str], *, asks: bool) -> dict[str, str]:
    """Return the answers; ask for those that are not given, or raise `InvalidInput`."""
    answers = dict(given)
    for name, each in template.questions.items():
        if name in answers:
            continue
        if asks:
            answers[name] = _ask(each.ask, each.default)
        elif not each.default:
            raise InvalidInput(name, "has no answer", f"write --set '{name}=…': {each.ask}")
    return answers


def _ask(question: str, default: str) -> str:
    print(f"{question} [{default}] " if default else f"{question} ", end="", file=sys.stderr)
    sys.stderr.flush()
    with on_interrupt():
        typed = sys.stdin.readline()
    return typed.strip() or (default if typed else "")
