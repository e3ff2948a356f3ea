"""The `daybook add`, `list`, `show`, `edit`, `pause`, `resume` and `remove` commands."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.job_options import JobOptions, Prompt
from daybook.cli.options import Job, Json, prepare_prefect
from daybook.cli.runs import print_run_details
from daybook.cli.skips import skip_fields
from daybook.errors import InvalidInput, NotFound

_NO_OPTIONS = JobOptions()


async def add_(
    prompt: Prompt = None,
    *,
    options: JobOptions = _NO_OPTIONS,
    as_json: Json = False,
) -> int:
    """Add a job.

    Give one of --cron, --every, --at and --on-demand. The job keeps the time zone of its creation.

    Example: daybook add "Summarise open pull requests" --cron "0 9 * * 1-5" --tz Europe/Berlin
    """
    prepare_prefect()
    from daybook.api import jobs
    from daybook.operations import status

    job = await jobs.add({"prompt": prompt, **options.fields()})
    if as_json:
        output.print_json(job)
        return 0
    name = formatting.quoted(job["name"])
    output.line(f"Added {job['name']} ({job['id'][:8]})")
    output.fields(
        [
            ("schedule", job["words"]),
            ("next due", _next_due(job)),
            _action_in_brief(job),
            (
                "answer",
                f"in the ledger (`daybook runs {name}`)\n"
                f"and in Prefect's UI, deployment {job['deployment']}",
            ),
            ("notifies", formatting.notifications(job["recipients"])),
            ("worker", _worker_text(await status.worker_online())),
        ]
    )
    _print_notes(job)
    output.say(f"Try it now: daybook run {name} --wait")
    return 0


def _action_in_brief(job: dict[str, Any]) -> tuple[str, str]:
    """Return the label and a short description of a job's action."""
    if job["kind"] == "webhook":
        return "calls", f"{job['method']} {job['url']}"
    if job["kind"] == "tool-call":
        return "calls", f"the tool {job['tool']}"
    if job["kind"] == "heartbeat":
        return "orders", job["file"]
    return "asks", f"the agent {job['agent']}"


async def list_(*, as_json: Json = False) -> int:
    """List all jobs with their state, schedule, next due time and last outcome.

    Works without Prefect. Due times are in the time zone of each job.

    Example: daybook list --json
    """
    from daybook.api import jobs

    listed = await jobs.list_jobs()
    if as_json:
        output.print_json(listed)
    elif listed:
        output.table(
            ("NAME", "STATE", "SCHEDULE", "NEXT DUE", "LAST"),
            [
                (
                    job["name"],
                    _state(job),
                    job["words"],
                    formatting.short_due_time(job["next_due"][0]) if job["next_due"] else "-",
                    job["last_status"] or "-",
                )
                for job in listed
            ],
            whole=("STATE", "NEXT DUE", "LAST"),
        )
    else:
        output.say("There are no jobs. See `daybook add --help` for how to add one.")
    return 0


def _state(job: dict[str, Any]) -> str:
    return ("on" if job["enabled"] else "off") + (", conflict" if job["conflicts"] else "")


async def show_(
    ref: Annotated[
        str,
        Parameter(
            name="JOB",
            help="Name or id of a job, or id of a run; a unique prefix of it will do.",
        ),
    ],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Show a job with its last run and next due times, or a run in full.

    Works without Prefect, and for removed jobs.

    Example: daybook show morning-brief
    """
    from daybook.api import jobs, runs

    try:
        job = await jobs.show(ref)
    except NotFound as no_job:
        try:
            run = await runs.show(ref)
        except NotFound:
            raise no_job from None
        if as_json:
            output.print_json(run)
        else:
            print_run_details(run)
        return 0
    if as_json:
        output.print_json(job)
    else:
        _print_job(job)
    return 0


async def edit_(
    job: Job,
    /,
    prompt: Prompt = None,
    *,
    options: JobOptions = _NO_OPTIONS,
    as_json: Json = False,
) -> int:
    """Change the given fields of a job.

    A new interval counts from now. With --tz alone, a cron schedule keeps its times of day in the
    new zone. Pass '' to clear a text or a list, and {} to clear an object.

    Example: daybook edit morning-brief --cron "30 8 * * 1-5"
    """
    changes = {"prompt": prompt, **options.fields()}
    if all(value is None for value in changes.values()):
        raise InvalidInput("options", "nothing to change", "pass an option such as --every 2h")
    prepare_prefect()
    from daybook.api import jobs
    from daybook.jobs.notify import Notify

    has_notify_change = not changes.keys().isdisjoint(Notify.model_fields)
    return _print_change(
        await jobs.edit_job(job, changes), as_json, show_notifications=has_notify_change
    )


async def pause_(
    job: Job,
    /,
    *,
    note: Annotated[str, Parameter(help="Reason, shown with the job.")] = "",
    as_json: Json = False,
) -> int:
    """Pause a job. You can still run it by hand.

    Example: daybook pause morning-brief --note "on holiday"
    """
    prepare_prefect()
    from daybook.api import jobs

    return _print_change(await jobs.pause(job, note), as_json)


async def resume_(job: Job, /, *, as_json: Json = False) -> int:
    """Resume a paused job.

    Example: daybook resume morning-brief
    """
    prepare_prefect()
    from daybook.api import jobs

    return _print_change(await jobs.resume(job), as_json)


async def remove_(
    job: Job,
    /,
    *,
    yes: Annotated[bool, Parameter(help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> int:
    """Remove a job and its deployment. Its history stays in the ledger.

    Asks for confirmation on a terminal. With --json it prints the removed job.

    Example: daybook remove morning-brief --yes
    """
    prepare_prefect()
    from daybook.api import jobs

    if not yes and sys.stdin.isatty():
        current = await jobs.show(job)
        if not _confirmed(f"Remove {current['name']} ({current['words']})?"):
            output.say("Nothing removed.")
            return 1
    removed = await jobs.remove(job)
    if as_json:
        output.print_json(removed)
    else:
        output.line(f"Removed {removed['name']} ({removed['id'][:8]})")
    return 0


def _confirmed(question: str) -> bool:
    """Ask the user at the terminal; return whether the answer is yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_change(job: dict[str, Any], as_json: bool, *, show_notifications: bool = False) -> int:
    if as_json:
        output.print_json(job)
        return 0
    output.line(f"{job['name']} is {formatting.enabled_state(job)}: {job['words']}")
    notifications = (
        [("notifies", formatting.notifications(job["recipients"]))] if show_notifications else []
    )
    output.fields([("next due", _next_due(job)), *notifications])
    _print_notes(job)
    return 0


def _print_job(job: dict[str, Any]) -> None:
    last = job["last_run"]
    output.line(f"{job['name']} ({job['id'][:8]})", style="bold")
    pairs = [
        ("description", job["description"]),
        ("schedule", job["words"]),
        ("state", formatting.enabled_state(job)),
        ("next due", _next_due(job)),
        *skip_fields(job),
        ("last run", formatting.run_summary(last) if last else "none yet"),
        ("failures", _failures(job)),
        *_action(job),
        ("check", formatting.check_summary(job["policy"]["check"])),
        ("notifies", formatting.notifications(job["recipients"])),
        ("policy", _policy(job["policy"])),
        ("tags", ", ".join(job["tags"])),
        ("deployment", job["deployment"] + (", sync pending" if job["sync"] == "pending" else "")),
        ("conflicts", _conflicts(job)),
        ("Prefect's own", "\n".join(job["prefect_own"])),
        ("id", job["id"]),
        ("changed", formatting.local_time(job["updated_at"])),
        ("removed", formatting.local_time(job["removed_at"]) if job["removed_at"] else ""),
    ]
    output.fields([(name, value) for name, value in pairs if value])


def _conflicts(job: dict[str, Any]) -> str:
    fields = ", ".join(job["conflicts"])
    return f"{fields}; see `daybook conflicts`" if fields else ""


def _action(job: dict[str, Any]) -> list[tuple[str, str]]:
    if job["kind"] == "webhook":
        names = ", ".join(job["headers"])
        return [
            ("calls", f"{job['method']} {job['url']}"),
            ("headers", names),
            ("body", job["body"]),
        ]
    if job["kind"] == "tool-call":
        params = job["params"]
        return [("tool", job["tool"]), ("params", formatting.field_text(params) if params else "")]
    if job["kind"] == "heartbeat":
        return [
            ("orders", job["file"]),
            ("gate", job["gate_agent"]),
            ("agent", job["agent"]),
            ("model", job["model"]),
            ("session", job["session_key"] or job["session"]),
        ]
    return [
        ("prompt", job["prompt"]),
        ("agent", job["agent"]),
        ("model", job["model"]),
        ("session", job["session_key"] or job["session"]),
        ("answer", _answer_format(job)),
    ]


def _failures(job: dict[str, Any]) -> str:
    count, error, last = job["consecutive_failures"], job["last_error"], job["last_run"]
    is_shown = last is not None and error in (last["reason"], last["error"])  # by "last run" above
    parts = [
        f"{count} in a row" if count > 1 else "",
        "" if is_shown else f"last error: {error}",
    ]
    return ", ".join(filter(None, parts)) if count else ""


def _answer_format(job: dict[str, Any]) -> str:
    """Return the required format of the answer; empty for text, which needs none."""
    if job["output_format"] == "text":
        return ""
    schema = f", {json.dumps(job['output_schema'])}" if job["output_schema"] else ""
    return f"{job['output_format']}{schema}"


_ALWAYS_SHOWN = ("timeout", "retries", "retry_delay", "overlap", "catch_up")


def _policy(policy: dict[str, Any]) -> str:
    """Return the policy as one line.

    It shows some fields always, the others only if they differ from the default.
    """
    from daybook.jobs.policy import Policy

    defaults = Policy().model_dump(mode="json")
    parts = [
        " ".join([name.replace("_", " "), *_value_words(value)])
        for name, value in policy.items()
        if name in _ALWAYS_SHOWN or (value != defaults.get(name) and name != "check")
    ]
    return ", ".join(parts)


def _value_words(value: Any) -> list[str]:
    """Return the words of a policy value; none for True, because the name is enough."""
    if value is True:
        return []
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _next_due(job: dict[str, Any]) -> str:
    return "\n".join(map(formatting.due_time_with_utc, job["next_due"])) or "-"


def _worker_text(online: bool) -> str:
    return "online" if online else "offline, so no job runs; start `daybook up`"


def _print_notes(job: dict[str, Any]) -> None:
    """Print the notes on a job that was added or changed."""
    for note in job.get("notes", []):
        output.say(note)
    if job["sync"] == "pending":
        output.say("Prefect did not answer in time. Run `daybook sync` to deploy the job.")
