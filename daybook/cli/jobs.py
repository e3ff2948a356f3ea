"""The `daybook add`, `show`, `edit`, `pause`, `resume` and `remove` commands."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api, diagnosis
from daybook.api.filters import JobFilters, Selection
from daybook.cli import completion, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.job_options import REPLACES_PROMPT, JobOptions, Prompt
from daybook.cli.options import (
    Absolute,
    Job,
    Jobs,
    Json,
    Yes,
    is_confirmed,
    on_interrupt,
    prepare_prefect,
    prompt_or_file,
)
from daybook.cli.runs import print_run_details
from daybook.cli.selection import NO_FILTERS, Which, act_on_each, check_names_or_all
from daybook.cli.skips import skip_fields
from daybook.errors import DaybookError, InvalidInput
from daybook.jobs.model import FIELDS
from daybook.jobs.notify import Notify
from daybook.policies.policy import Policy
from daybook.schedules.fields import ScheduleFields
from daybook.schedules.schedule import is_schedule
from daybook.short_text import first_names

if TYPE_CHECKING:
    from daybook.api.transcripts import Transcript
    from daybook.delivery.views import RunWithSteps
    from daybook.jobs.views import ChangedJob, FieldChange, JobDetails, ListedJob

MAX_ANSWER_LINES = 20
"""Maximum number of lines of the last answer that `show JOB` prints."""
_NO_OPTIONS = JobOptions()


@command(uses_prefect=True)
async def add_(
    schedule: Annotated[str | None, Parameter(help=FIELDS["schedule"].description)] = None,
    /,
    prompt: Prompt = None,
    *,
    options: JobOptions = _NO_OPTIONS,
    idempotency_key: Annotated[
        str | None, Parameter(help="Id of the request; repeating it adds no second job.")
    ] = None,
) -> Answer:
    """Add a job: when it is due, and what to ask the agent.

    The schedule can also be given by --cron, --every, --at, --after or --on-demand; the only other
    argument is then the prompt. The job keeps its time zone, even if the default changes.

    Example: daybook add "every weekday at 9:00" "Name one thing to learn today" --channel inbox
    """
    fields = _new_job_fields(schedule, prompt, options.fields())
    if idempotency_key is not None:
        fields["idempotency_key"] = idempotency_key
    job = await api.jobs.add(fields)
    yield job
    name = formatting.quoted(job.name)
    is_repeated = api.jobs.REPEATED_NOTE in job.notes
    output.line(f"{'Found' if is_repeated else 'Added'} {job.name} ({job.id[:8]})")
    output.fields(
        [
            ("schedule", job.words),
            ("next due", _next_due(job)),
            job.action.brief(),
            (
                "answer",
                f"in the ledger (`daybook runs {name}`)\n"
                f"and in Prefect's UI, deployment {job.deployment}",
            ),
            ("notifies", formatting.notifications(job.recipients)),
            (
                "worker",
                "online"
                if await diagnosis.status.worker_online()
                else "offline, so no job runs; start `daybook up`",
            ),
        ]
    )
    _print_notes(job)
    if job.sync == "synced":
        output.say(f"Try it now: daybook run {name} --wait")


def _new_job_fields(
    schedule: str | None, prompt: str | None, given: dict[str, object]
) -> dict[str, object]:
    """Return the fields of a new job from the two arguments and the options of `daybook add`.

    If an option replaces the prompt and no option gives the schedule, a single argument is the
    schedule; otherwise it is the prompt. Raise `InvalidInput` if the arguments are in the wrong
    order, if an argument is missing, or if an argument and an option both give the schedule.
    """
    options = [name for name in ScheduleFields.model_fields if name in given and name != "timezone"]
    if prompt is None and (options or given.keys().isdisjoint(REPLACES_PROMPT)):
        schedule, prompt = None, schedule
    if options and schedule is not None:
        # The argument is not a field of `daybook.api`, and `schedule` is the option.
        fields = " and ".join(["SCHEDULE", *options])
        raise InvalidInput(fields, "only one can be given", "quote a prompt that has spaces")
    if not options and prompt is not None and is_schedule(prompt):
        if schedule is None:
            raise InvalidInput("prompt", "is missing", "write it after the schedule")
        if not is_schedule(schedule):
            raise InvalidInput("schedule", "comes after the prompt", "write the schedule first")
    if not options and schedule is None:
        raise InvalidInput(
            "schedule",
            "is missing",
            'write it before the prompt, such as "every weekday at 9:00", or use --on-demand',
        )
    return {
        "prompt": prompt_or_file(prompt),
        **given,
        **({} if schedule is None else {"schedule": schedule}),
    }


async def show_(
    *refs: Annotated[
        str,
        Parameter(
            name="JOB",
            help="Job name, or unique id prefix of a job or a run. Several may be given.",
            completer=completion.jobs_and_runs,
        ),
    ],
    transcript: Annotated[
        bool,
        Parameter(
            help="Print what the agent of a run was asked, did and answered, as Markdown, or as "
            "JSON with --json. A job stands for its last run."
        ),
    ] = False,
    absolute: Absolute = False,
    as_json: Json = False,
) -> int:
    """Show a job with its last run and next due times, or a run in full.

    Also shows removed jobs. The next due times are also in the time zone of the job. Works without
    Prefect.

    Example: daybook show morning-brief
    """
    if not refs:
        raise InvalidInput("job", "is missing", "name at least one")
    if transcript:
        return await act_on_each(refs, api.transcripts.read, _print_transcript, as_json=as_json)
    from daybook.delivery.views import RunWithSteps

    shown = 0

    def show(found: JobDetails | RunWithSteps) -> None:
        nonlocal shown
        if shown:
            output.line("")
        shown += 1
        if isinstance(found, RunWithSteps):
            print_run_details(found, absolute)
        else:
            _print_job(found, absolute)

    return await act_on_each(refs, api.jobs.show_job_or_run, show, as_json=as_json)


def _print_transcript(found: Transcript) -> None:
    output.line(api.transcripts.to_markdown(found))


async def edit_(
    job: Job,
    /,
    prompt: Prompt = None,
    *,
    options: JobOptions = _NO_OPTIONS,
    as_json: Json = False,
) -> int:
    """Change the given fields of a job; without options, open the job as YAML in $EDITOR.

    A new interval counts from now. With --tz alone, a cron schedule keeps its times of day in the
    new zone. Pass '' to clear a string or a list, and {} to clear an object.

    Example: daybook edit morning-brief --cron "30 8 * * 1-5"
    """
    if prompt is not None and is_schedule(prompt):
        raise InvalidInput("prompt", f'"{prompt}" is a schedule', "write --schedule before it")
    changes = {"prompt": prompt_or_file(prompt), **options.fields()}
    if all(value is None for value in changes.values()):
        if sys.stdin.isatty() and sys.stdout.isatty():
            prepare_prefect()
            return await _edit_as_yaml(job, as_json)
        hint = "pass an option such as --every 2h; the editor opens only in a terminal"
        raise InvalidInput("options", "nothing to change", hint)
    prepare_prefect()

    has_notify_change = not changes.keys().isdisjoint(Notify.model_fields)
    edited = await api.jobs.edit_job(job, changes)
    if as_json:
        output.print_json(edited)
    else:
        _print_change(edited, show_notifications=has_notify_change)
    return 0


async def _edit_as_yaml(job: str, as_json: bool) -> int:
    """Open the job in the user's editor.

    After each error, open it again until the change is stored. If the user gives up after an error,
    the editor fails after it, or Ctrl-C stops the change, keep the text in a file. Raise
    `InvalidInput` for a removed job, and `EditorFailed`.
    """
    from daybook.cli.editor import EditorFailed, JobEdit

    current = await api.jobs.show(job)
    if current.removed_at is not None:
        raise InvalidInput("job", f'"{current.name}" was removed', "add it again")
    edit, problem = JobEdit(current), ""
    try:
        while True:
            try:
                if not (changes := edit.changes(problem)):
                    output.say("Nothing changed.")
                    return 0
                edited = await api.jobs.edit_job(current.id, changes)
                if as_json:
                    output.print_json(edited)
                else:
                    _print_change(edited)
                return 0
            except EditorFailed:
                raise
            except DaybookError as refused:
                problem = str(refused)
                output.say(f"daybook: {problem}")
                output.say("Press Enter to edit it again, or Ctrl-C to give up.")
                with on_interrupt():
                    sys.stdin.readline()
    except (EditorFailed, KeyboardInterrupt, asyncio.CancelledError) as error:
        if problem or isinstance(error, asyncio.CancelledError):
            output.say(f"Your text is in {edit.keep()}")
        raise


async def pause_(
    *jobs: Jobs,
    all_: Annotated[bool, Parameter(name="--all", help="Pause all jobs that are enabled.")] = False,
    which: Which = NO_FILTERS,
    note: Annotated[str, Parameter(help="Reason, shown with the job.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Pause a job, or all. You can still run it by hand.

    Asks for confirmation of --all on a terminal.

    Example: daybook pause morning-brief --note "on holiday"
    """
    check_names_or_all("job", jobs, all_, which)
    prepare_prefect()

    if jobs:
        return await act_on_each(
            jobs, lambda job: api.jobs.pause(job, note), _print_change, as_json=as_json
        )
    enabled = [each for each in await _select(which) if each.enabled]
    return await _change_all(
        "Pause", enabled, lambda each: api.jobs.pause(each.id, note), yes=yes, as_json=as_json
    )


async def resume_(
    *jobs: Jobs,
    all_: Annotated[
        bool,
        Parameter(name="--all", help="Resume all jobs that `daybook pause` paused."),
    ] = False,
    which: Which = NO_FILTERS,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Resume a paused job, or all.

    Asks for confirmation of --all on a terminal.

    Example: daybook resume morning-brief
    """
    check_names_or_all("job", jobs, all_, which)
    prepare_prefect()

    if jobs:
        return await act_on_each(jobs, api.jobs.resume, _print_change, as_json=as_json)
    paused = [each for each in await _select(which) if api.jobs.is_paused(each.disabled_reason)]
    return await _change_all(
        "Resume", paused, lambda each: api.jobs.resume(each.id), yes=yes, as_json=as_json
    )


async def _select(which: Selection) -> list[ListedJob]:
    return await api.jobs.list_jobs(JobFilters(**dict(which)))


async def _change_all(
    verb: str,
    jobs: list[ListedJob],
    change: Callable[[ListedJob], Awaitable[ChangedJob]],
    *,
    yes: bool,
    as_json: bool,
) -> int:
    """Change all ``jobs`` after a confirmation. Return the exit code.

    If a job cannot be changed, report the error and change the other jobs.
    """
    names = first_names([each.name for each in jobs])
    question = f"{verb} {formatting.counted(len(jobs), 'job')}: {names}"
    if jobs and not is_confirmed(question, yes):
        output.say("Nothing changed.")
        return 1
    changed: list[ChangedJob] = []
    code = 0
    for each in jobs:
        try:
            changed.append(await change(each))
        except DaybookError as error:
            output.say(f"! {each.name}: {error}")
            code = 1
        else:
            if not as_json:
                output.line(f"{each.name} is {formatting.enabled_state(changed[-1])}")
    if as_json:
        output.print_json(changed)
    elif not jobs:
        output.say("No job matches.")
    return code


async def remove_(*jobs: Jobs, yes: Yes = False, as_json: Json = False) -> int:
    """Remove jobs and their deployments. Their history stays in the ledger.

    Asks for confirmation on a terminal; without one, --yes is required. With --json, prints the
    removed job, or the list of them.

    Example: daybook remove morning-brief --yes
    """
    if not jobs:
        raise InvalidInput("job", "is missing", "name at least one")
    prepare_prefect()

    found = {each: await api.jobs.show(each) for each in jobs}
    names = ", ".join(f"{each.name} ({each.words})" for each in found.values())
    if not is_confirmed(f"Remove {names}", yes):
        output.say("Nothing removed.")
        return 1
    return await act_on_each(
        jobs,
        lambda job: api.jobs.remove(found[job].id),
        lambda job: output.line(f"Removed {job.name} ({job.id[:8]})"),
        as_json=as_json,
    )


def _print_change(job: ChangedJob, *, show_notifications: bool = False) -> None:
    output.line(f"{job.name} is {formatting.enabled_state(job)}: {job.words}")
    notifications = (
        [("notifies", formatting.notifications(job.recipients))] if show_notifications else []
    )
    shown = [each for each in job.changes if each.field != "enabled"]
    changes = [("changed", "\n".join(map(_change, shown)))] if shown else []
    output.fields([*changes, ("next due", _next_due(job)), *notifications])
    _print_notes(job)


def _change(change: FieldChange) -> str:
    """Return the change as text, such as `retries: 3 → 5`. Shorten a long value."""
    old, new = (formatting.value_text(each) for each in (change.old, change.new))
    return f"{change.field.replace('_', ' ')}: {old} → {new}"


def _print_job(job: JobDetails, absolute: bool) -> None:
    when = formatting.time_format(absolute)
    last, conflicts = job.last_run, ", ".join(job.conflicts)
    spent = formatting.spending(job.spent_30_days)
    output.line(f"{job.name} ({job.id[:8]})", style="bold")
    pairs = [
        ("description", job.description),
        ("schedule", job.words),
        ("state", formatting.enabled_state(job)),
        ("next due", _next_due(job) if absolute else _relative_next_due(job)),
        *skip_fields(job),
        ("last run", formatting.run_summary(last, when) if last else "none yet"),
        ("failures", _failures(job)),
        ("spent", f"{spent}, in the last 30 days" if spent else ""),
        *job.action.facts(),
        ("check", job.policy.check.brief()),
        ("notifies", formatting.notifications(job.recipients)),
        ("policy", _policy(job.policy)),
        ("tags", ", ".join(job.tags)),
        ("deployment", job.deployment + (", sync pending" if job.sync == "pending" else "")),
        ("conflicts", f"{conflicts}; see `daybook conflicts`" if conflicts else ""),
        ("Prefect's own", "\n".join(job.prefect_own)),
        ("id", job.id),
        ("changed", when(job.updated_at)),
        ("removed", when(job.removed_at) if job.removed_at else ""),
        *formatting.time_zone_field(absolute),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    if last and last.output:
        output.line(f"Last answer ({when(last.finished_at)}):", style="bold")
        lines = last.output.strip().splitlines()
        output.line("\n".join(f"  {each}".rstrip() for each in lines[:MAX_ANSWER_LINES]))
        if len(lines) > MAX_ANSWER_LINES:
            output.line(f"  … `daybook show {last.id[:8]}` shows the whole answer")


def _failures(job: JobDetails) -> str:
    count, error, last = job.consecutive_failures, job.last_error, job.last_run
    # Then "last run" above already shows the error.
    is_shown = last is not None and error in (last.reason, last.error)
    parts = [
        f"{count} in a row" if count > 1 else "",
        "" if is_shown else f"last error: {error}",
    ]
    return ", ".join(filter(None, parts)) if count else ""


_ALWAYS_SHOWN = ("timeout", "retries", "retry_delay", "overlap", "catch_up")


def _policy(policy: Policy) -> str:
    """Return the fields in `_ALWAYS_SHOWN` or unlike their default, without the check."""
    shown = policy.facts(Policy(), _ALWAYS_SHOWN)
    return ", ".join(" ".join(filter(None, each)) for each in shown)


def _next_due(job: ListedJob) -> str:
    return "\n".join(map(formatting.due_time_with_utc, job.next_due)) or "-"


def _relative_next_due(job: ListedJob) -> str:
    lines = (
        f"{formatting.relative_time(each)}, {formatting.due_time(each)}" for each in job.next_due
    )
    return "\n".join(lines) or "-"


def _print_notes(job: ChangedJob) -> None:
    """Print the notes on a job that was added or changed."""
    for note in job.notes:
        output.say(note)
