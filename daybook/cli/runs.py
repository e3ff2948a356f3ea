"""The `daybook run`, `retry`, `ask`, `runs`, `cancel` and `logs` commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.api.filters import RunFilters, Selection
from daybook.cli import completion, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import (
    Absolute,
    Jobs,
    Json,
    Limit,
    Watch,
    Yes,
    check_limit,
    is_confirmed,
    prepare_prefect,
    prompt_or_file,
)
from daybook.cli.selection import NO_FILTERS, Which, act_on_each, check_names_or_all
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError, InvalidInput, PrefectUnreachable
from daybook.ledger.states import LIVE, Status
from daybook.short_text import first_names
from daybook.usage import tokens_in_words

if TYPE_CHECKING:
    from daybook.api.preview import Preview
    from daybook.api.runs import LogLine
    from daybook.delivery.views import ListedRun, Notification, RunDetails, RunWithSteps
    from daybook.ledger.views import Approval, Run, Step

_NO_FILTERS = RunFilters()
_UNLIMITED = 1_000_000
"""Limit for a list of all runs. No ledger has so many runs."""

_CONCURRENT_CANCELLATIONS = 8

POLL_INTERVAL_SECONDS = 1.0
"""Interval between two polls for new log lines."""
MAX_TOOLS = 20
"""Maximum number of the names of an agent's tools that `show` prints."""
MAX_EMPTY_POLLS = 4
"""Number of empty polls after a run's end before `logs --follow` ends. Lines may be 2 s late."""
LATEST_LINE = timedelta(seconds=POLL_INTERVAL_SECONDS * MAX_EMPTY_POLLS)
"""Time after a run's end at which all its log lines are in Prefect."""


Wait = Annotated[
    bool, Parameter(help="Wait for the outcome; exit with 0 if the run succeeded or was skipped.")
]
RequestId = Annotated[
    str | None, Parameter(help="Id of the request; repeating it returns the same run.")
]


async def run_(
    *jobs: Jobs,
    wait: Wait = False,
    request_id: RequestId = None,
    prompt: Annotated[
        str | None,
        Parameter(help="Prompt for this run, instead of the job's; @FILE reads it from a file."),
    ] = None,
    dry_run: Annotated[
        bool, Parameter(help="Show what the run would do, without running it.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Run a job now, even if it is paused. Several jobs start one after another.

    Example: daybook run morning-brief --wait
    """
    if not jobs:
        raise InvalidInput("job", "is missing", "name at least one")
    if dry_run:
        if wait or request_id is not None or prompt is not None:
            problem = "cannot be combined with --wait, --request-id or --prompt"
            raise InvalidInput("dry_run", problem, "leave them out")
        return await act_on_each(jobs, api.preview.of_job, _print_preview, as_json=as_json)
    prepare_prefect()

    reporter, text = WaitReporter(quiet=as_json) if wait else None, prompt_or_file(prompt)

    hints = dict[str, list[str]]()

    async def run(job: str) -> RunDetails:
        made = await api.runs.run(job, wait=wait, request_id=request_id, prompt=text, talk=reporter)
        hints[made.id] = [] if as_json else await api.advice.of_job(made.job_id)
        return made

    return await _run_each(jobs, run, hints, wait=wait, as_json=as_json)


async def retry_(
    *runs: Annotated[
        str,
        Parameter(
            name="RUN",
            help="Run id or unique prefix, or a job for its last run. Several may be given.",
            completer=completion.jobs_and_runs,
        ),
    ],
    wait: Wait = False,
    request_id: RequestId = None,
    as_json: Json = False,
) -> int:
    """Repeat a run that has ended, with the prompt and the options that it had.

    The new run names the old one. Its job's failures and overlap count as for any other run.

    Example: daybook retry morning-brief --wait
    """
    if not runs:
        raise InvalidInput("run", "is missing", "name at least one")
    prepare_prefect()

    reporter = WaitReporter(quiet=as_json) if wait else None

    async def retry(run: str) -> RunDetails:
        return await api.runs.retry(run, wait=wait, request_id=request_id, talk=reporter)

    return await _run_each(runs, retry, {}, wait=wait, as_json=as_json)


@command(uses_prefect=True)
async def ask_(
    prompt: Annotated[
        str, Parameter(help="What to ask; @FILE reads it from a file, and - from standard input.")
    ],
    /,
    *,
    agent: Annotated[
        str, Parameter(help="Agent to ask.", completer=completion.agents, show_default=True)
    ] = "default",
    model: Annotated[str, Parameter(help="Model to use instead of the agent's.")] = "",
    session_key: Annotated[
        str, Parameter(help="Conversation to continue. [default: a new one]")
    ] = "",
) -> Answer:
    """Ask an agent once, without a job; the question is recorded as a run.

    It runs in this command, so Ctrl-C stops it. Exits with 0 if it succeeded.

    Example: daybook ask "What changed in Python 3.14?" --agent research
    """
    text = prompt_or_file(prompt) or ""
    from daybook.prefect.console import without_console_logs

    with without_console_logs():
        asked = await api.runs.ask(text, agent=agent, model=model, session_key=session_key)
    yield asked, 0 if asked.status == Status.SUCCEEDED else 1
    print_run(asked, asked.deliveries)


async def _run_each(
    refs: Sequence[str],
    run: Callable[[str], Awaitable[RunDetails]],
    hints: Mapping[str, Sequence[str]],
    *,
    wait: bool,
    as_json: bool,
) -> int:
    def show(result: RunDetails) -> None:
        print_run(result, result.deliveries)
        for hint in hints.get(result.id, ()):
            output.say(hint)
        if not wait:
            output.say(
                f"See its outcome: daybook runs {formatting.quoted(result.job or result.id)}"
            )

    def exit_code(result: RunDetails) -> int:
        return 0 if not wait or result.status in ("succeeded", "skipped") else 1

    return await act_on_each(refs, run, show, as_json=as_json, exit_code=exit_code)


def _print_preview(view: Preview) -> None:
    output.line(f"{view.job} ({view.kind}) would do this:", style="bold")
    pairs = [(label, text) for label, text in view.does.facts() if text]
    if view.session_id:
        pairs.append(("session", f"{view.session_id}, {view.history} earlier messages"))
    answer_text = "stored in the ledger and shown in the Prefect UI"
    notifications = formatting.notifications(view.recipients)
    more = [("answer", answer_text), ("notifies", notifications), ("cost", "not estimated")]
    output.fields([*pairs, *more])


async def runs_(
    job: Annotated[
        str | None,
        Parameter(
            help="Job name, id or unique id prefix. [default: all jobs]", completer=completion.jobs
        ),
    ] = None,
    *,
    filters: Annotated[RunFilters, Parameter(name="*")] = _NO_FILTERS,
    limit: Limit = 20,
    absolute: Absolute = False,
    watch: Watch = False,
    as_json: Json = False,
) -> int:
    """List runs with their outcomes, newest first.

    Includes runs of removed jobs. Works without Prefect.

    Example: daybook runs morning-brief --failing --since 7d
    """
    check_limit(limit)

    def render(listed: list[ListedRun]) -> None:
        if listed:
            _print_runs(listed, absolute)
        else:
            output.say("There are no runs yet." if filters == _NO_FILTERS else "No run matches.")

    await output.show(
        lambda: api.runs.history(job, limit, filters), render, as_json=as_json, watch=watch
    )
    return 0


def _print_runs(listed: list[ListedRun], absolute: bool) -> None:
    when = formatting.time_format(absolute)
    due_heading = formatting.time_heading("DUE", absolute)
    has_usage = any(run.usage for run in listed)
    has_costs = any(run.usage.get("cost_usd") is not None for run in listed)
    output.table(
        (
            *("RUN", "JOB", due_heading, "STATUS", "DELIVERY", "TOOK"),
            *(("COST",) if has_costs else ()),
            *("REASON", "BY"),
            *(("TOKENS",) if has_usage else ()),
        ),
        [
            (
                run.id[:8],
                formatting.job_label(run),
                formatting.run_due_time(run, when),
                run.status,
                formatting.delivery_summary(run),
                formatting.duration(run.duration_seconds),
                *((formatting.short_cost(run.usage),) if has_costs else ()),
                formatting.short_reason(run),
                run.trigger,
                *((formatting.short_tokens(run.usage),) if has_usage else ()),
            )
            for run in listed
        ],
        whole=("RUN", "JOB", due_heading, "STATUS"),
        cut=True,
    )


async def cancel_(
    *runs: Annotated[
        str,
        Parameter(
            name="RUN",
            help="Run id or unique prefix, or a job that has one active run. "
            "Several may be given; required without --all.",
            completer=completion.jobs_and_runs,
        ),
    ],
    all_: Annotated[
        bool, Parameter(name="--all", help="Cancel all runs that are waiting or running.")
    ] = False,
    which: Which = NO_FILTERS,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Cancel a run, or all.

    A waiting run ends at once; a running one is stopped with all its processes. Exits with 0 if the
    run was cancelled, or with 1 if it ended in another way or has not ended within 30 s. Asks for
    confirmation of --all on a terminal.

    Example: daybook cancel morning-brief
    """
    check_names_or_all("run", runs, all_, which)
    prepare_prefect()

    if not runs:
        return await _cancel_all(which, yes=yes, as_json=as_json)
    return await act_on_each(
        runs,
        api.runs.cancel,
        lambda result: print_run(result, result.deliveries),
        as_json=as_json,
        exit_code=lambda result: int(result.status != "cancelled"),
    )


async def _cancel_all(which: Selection, *, yes: bool, as_json: bool) -> int:
    filters = RunFilters(status=sorted(LIVE), **dict(which))
    live = await api.runs.history(None, _UNLIMITED, filters)
    names = first_names(list(dict.fromkeys(map(formatting.job_label, live))))
    question = f"Cancel {formatting.counted(len(live), 'run')} of {names}"
    if live and not is_confirmed(question, yes):
        output.say("Nothing cancelled.")
        return 1
    # Cancel the waiting runs first, because the end of a running run would start the next waiting
    # one.
    results: list[RunDetails] = []
    for is_waiting in (True, False):
        chosen = [each for each in live if (each.status == Status.WAITING) is is_waiting]
        for ended in await _cancel_concurrently([each.id for each in chosen]):
            if isinstance(ended, DaybookError):
                output.say(f"! {ended}")
                continue
            results.append(ended)
            if not as_json:
                print_run(ended, ended.deliveries)
    if as_json:
        output.print_json(results)
    elif not live:
        output.say("No run is waiting or running.")
    return 0 if [each.status for each in results] == [Status.CANCELLED] * len(live) else 1


async def _cancel_concurrently(run_ids: Sequence[str]) -> list[RunDetails | DaybookError]:
    """Cancel the runs, a few at a time. Return the result or the error of each run."""
    import asyncio

    free = asyncio.Semaphore(_CONCURRENT_CANCELLATIONS)

    async def cancel(run_id: str) -> RunDetails | DaybookError:
        async with free:
            try:
                return await api.runs.cancel(run_id)
            except DaybookError as error:  # the run may have ended in the meantime
                return error

    return await asyncio.gather(*map(cancel, run_ids))


async def logs_(
    run: Annotated[
        str,
        Parameter(
            help="Run id or unique prefix, or a job for its last run.",
            completer=completion.jobs_and_runs,
        ),
    ],
    /,
    *,
    follow: Annotated[
        bool,
        Parameter(alias="-f", help="Follow until the run ends; with --json, one line per entry."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Show the log of a run.

    Example: daybook logs morning-brief --follow
    """
    prepare_prefect()

    logged_run = await api.runs.find_logged(run)
    if logged_run.job_removed:
        output.say(f"The job {formatting.quoted(logged_run.job or '')} was removed.")
    try:
        if follow:
            await _follow(logged_run.id, as_json)
            return 0
        lines = [each async for each in api.runs.logs(logged_run.id)]
    except PrefectUnreachable:
        if not as_json:
            output.say("Prefect has the log, and does not answer. The ledger has this:")
            print_run_details(await api.runs.show(logged_run.id))
        raise
    if as_json:
        output.print_json(lines)
    for each in [] if as_json else lines:
        _print_log_line(each)
    if not lines:
        output.say("Prefect has no log of this run.")
    return 0


def print_run(run: Run, deliveries: Sequence[Notification] = ()) -> None:
    """Print a run: its status, usage, deliveries, reason, error and answer."""
    took = f" in {formatting.duration(run.duration_seconds)}" if run.duration_seconds else ""
    line = f"{formatting.job_label(run, run.kind)}: {run.status}{took}"
    line += f", due {formatting.run_due_time(run)} ({run.trigger}, run {run.id[:8]})"
    output.line(line, style=output.STYLES.get(run.status, ""))
    if spent := formatting.usage_summary(run):
        output.line(f"  {spent}")
    if lines := formatting.delivery_details(run, deliveries):
        output.fields([("delivery", lines)])
    _print_texts(run)


def print_run_details(run: RunWithSteps, absolute: bool = False) -> None:
    """Print a run like `print_run`, with its times, attempts, steps, agent, session and ids.

    Also print the approvals that the run has requested.
    """
    when = formatting.time_format(absolute)
    output.line(f"{formatting.job_label(run, run.kind)}: {run.status}", style="bold")
    usage = run.usage
    ended = run.finished_at
    took = f" (took {formatting.duration(run.duration_seconds)})" if run.duration_seconds else ""
    pairs = [
        ("due", f"{formatting.run_due_time(run, when)} ({run.trigger})"),
        ("began", when(run.started_at) if run.started_at else ""),
        ("ended", f"{when(ended)}{took}" if ended else ""),
        ("attempts", str(run.attempts)),
        ("agent", run.agent),
        ("model", run.model),
        ("worker", run.worker),
        ("tools", first_names(run.tools, MAX_TOOLS)),
        ("tokens", tokens_in_words(usage)),
        ("cost", formatting.cost(usage)),
        ("session", run.session_id),
        ("session of the program", run.program_session),
        ("delivery", formatting.delivery_details(run, run.deliveries)),
        ("id", run.id),
        ("retry of", run.retry_of),
        ("flow run", run.flow_run_id),
        *formatting.time_zone_field(absolute),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    _print_texts(run)
    if run.steps:
        _print_steps(run.steps)
    if run.approvals:
        _print_approvals(run.approvals, when)
    if run.sources:
        rows = [(each.address, each.title) for each in run.sources]
        output.line("")
        output.table(("SOURCE", "TITLE"), rows, whole=("SOURCE",), cut=True)
    if run.files:
        written = [(each.path, f"{each.size:,}", each.kept_in_words()) for each in run.files]
        output.line("")
        output.table(("FILE", "BYTES", "KEPT"), written, whole=("FILE",), cut=True)
        if not all(each.not_kept for each in run.files):
            output.say(f"Save the files: daybook files {run.id[:8]} --save FOLDER")


def _print_steps(steps: Sequence[Step]) -> None:
    has_attempts = steps[-1].attempt > 1
    output.line("")
    output.table(
        (*(("ATTEMPT",) if has_attempts else ()), *("STEP", "KIND", "NAME", "STATUS"), *_OF_STEPS),
        [
            (
                *((str(step.attempt),) if has_attempts else ()),
                *(step.position, step.kind, step.name),
                f"{step.status}, replaced" if step.replaced else step.status,
                formatting.duration(step.duration_seconds),
                formatting.short_tokens(step.usage),
                formatting.short_cost(step.usage),
                formatting.first_line(step.error or step.diverged or step.output),
            )
            for step in steps
        ],
        whole=("STEP", "KIND", "STATUS"),
        cut=True,
    )


def _print_approvals(approvals: Sequence[Approval], when: Callable[[datetime], str]) -> None:
    output.line("")
    output.table(
        ("APPROVAL", "STEP", "TOOL", "STATUS", "ASKED", "DECIDED", "BY", "REASON", "ARGUMENTS"),
        [
            (
                *(str(each.number), each.position, each.tool, each.status, when(each.asked_at)),
                when(each.decided_at) if each.decided_at else "",
                *(each.decided_by, each.reason, ", ".join(each.input.splitlines())),
            )
            for each in approvals
        ],
        whole=("APPROVAL", "STEP", "TOOL", "STATUS"),
        cut=True,
    )


_OF_STEPS = ("TOOK", "TOKENS", "COST", "RESULT")


def _print_texts(run: Run) -> None:
    """Print the reason, the error and the answer of a run. Print equal texts only once."""
    error = run.error
    is_in_reason = error and run.reason.startswith(error)
    for text in dict.fromkeys([run.reason, None if is_in_reason else error, run.output]):
        if text:
            output.line("\n".join(f"  {each}".rstrip() for each in text.splitlines()))


class WaitReporter:
    """Output of `run --wait` until the outcome. It implements `daybook.api.runs.WaitObserver`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def asked(self) -> None:
        if not self._quiet:
            output.say("Waiting for the outcome. Ctrl-C stops waiting; the run continues.")

    def held_up(self, why: str) -> None:
        output.say(f"! {why}")


async def _follow(run_id: str, as_json: bool) -> None:
    import asyncio

    shown_count = empty_polls = 0
    while empty_polls < MAX_EMPTY_POLLS:
        run = await api.runs.show(run_id)
        ended = run.status not in LIVE
        lines = [each async for each in api.runs.logs(run_id)]
        for each in lines[shown_count:]:
            if as_json:
                output.print_json_line(each)
            else:
                _print_log_line(each)
        empty_polls = empty_polls + 1 if ended and len(lines) == shown_count else 0
        shown_count = len(lines)
        if run.finished_at and run.finished_at + LATEST_LINE < SYSTEM_CLOCK.now():
            return
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


def _print_log_line(entry: LogLine) -> None:
    import logging

    level = logging.getLevelName(entry.level)
    style = "red" if entry.level >= logging.ERROR else ""
    output.line(f"{formatting.local_time(entry.at)} {level:<7} {entry.message}", style=style)
