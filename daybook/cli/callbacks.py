"""The `daybook callbacks` and `daybook callbacks destinations` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, documents, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute, Limit, check_limit
from daybook.errors import InvalidInput
from daybook.schedules import durations

if TYPE_CHECKING:
    from daybook.api.destinations import ListedDestination
    from daybook.delivery.views import DeliveryAttempt, NotificationDetails


@command()
async def list_(
    *,
    status: Annotated[
        str | None, Parameter(help="List only this status: pending, delivered or failed.")
    ] = None,
    job: Annotated[str | None, Parameter(help="List only this job, current or removed.")] = None,
    limit: Limit = 50,
    absolute: Absolute = False,
) -> Answer:
    """List callbacks and messages, newest first.

    Works without Prefect.

    Example: daybook callbacks list --status failed
    """
    check_limit(limit)

    listed = await api.callbacks.list_callbacks(status, job, limit)
    yield listed
    if listed:
        when = formatting.time_format(absolute)
        created_heading = formatting.time_heading("CREATED", absolute)
        output.table(
            ("ID", "JOB", "EVENT", "TO", "STATUS", "TRIES", created_heading, "ERROR"),
            [
                (
                    formatting.short_id(each.id),
                    formatting.job_label(each),
                    each.event,
                    formatting.recipient(each),
                    each.status,
                    str(each.attempts),
                    when(each.created_at),
                    formatting.first_line(each.error),
                )
                for each in listed
            ],
            whole=("ID", "STATUS"),
            cut=True,
        )
    elif status or job:
        output.say("No callbacks or messages match.")
    else:
        output.say(
            "No callbacks or messages yet; a job sends them with --on-complete, --on-fail or "
            "--channel (`daybook add --help`)."
        )


@command()
async def show_(
    ref: Annotated[str, Parameter(name="ID", help="Id or unique prefix.")],
    /,
    *,
    absolute: Absolute = False,
) -> Answer:
    """Show a callback or a message: its body and the result of each attempt.

    Works without Prefect. Times are in this machine's time zone.

    Example: daybook callbacks show 5f0c22ab
    """
    callback = await api.callbacks.show(ref)
    yield callback
    _print_callback(callback, absolute)


@command()
async def retry_(
    *refs: Annotated[str, Parameter(name="ID", help="Ids or unique prefixes.")],
    failed: Annotated[bool, Parameter(help="Retry all failed callbacks and messages.")] = False,
) -> Answer:
    """Retry failed callbacks and messages, and try pending ones now.

    The leading keeper sends them, so a worker or `daybook keeper` must be running.

    Example: daybook callbacks retry --failed
    """
    count = await api.callbacks.retry(refs, failed=failed)
    yield {"retried": count}
    if count:
        output.line(f"Queued for another attempt: {count}")
        output.say("Follow them with: daybook callbacks list")
    else:
        output.say("No callback or message has failed.")


@command(uses_prefect=True)
async def destinations_add_(
    url: Annotated[
        str,
        Parameter(
            help="URL of the callbacks, or its beginning up to a slash; the longest match applies."
        ),
    ],
    /,
    *,
    name: Annotated[
        str | None,
        Parameter(
            help="Name of lowercase letters, digits and dashes. [default: derived from the URL]"
        ),
    ] = None,
    token: Annotated[
        str | None,
        Parameter(
            help="Name of a secret (`daybook secrets add`) to send as Authorization: Bearer.",
            completer=completion.secrets,
        ),
    ] = None,
    timeout: Annotated[
        str, Parameter(help="Timeout of each attempt, up to 45s.", show_default=True)
    ] = "15s",
    tries: Annotated[
        int,
        Parameter(
            help="Maximum number of attempts. 11 attempts take about a day.", show_default=True
        ),
    ] = 11,
    secret_from_stdin: Annotated[
        bool, Parameter(help="Read the whsec_… secret from standard input instead of creating one.")
    ] = False,
    replace: Annotated[
        bool, Parameter(help="Replace the existing destination of this name; its secret is kept.")
    ] = False,
    typed: Annotated[str | None, Parameter(name="--secret", show=False)] = None,
) -> Answer:
    """Set the signing secret, token, timeout and number of attempts for a URL.

    A new secret is printed only once. The receiver needs it to verify signatures as Standard
    Webhooks describes.

    Example: daybook callbacks destinations add https://ops.example.org/hook --token ops-token
    """
    if typed is not None:  # the error must not repeat the secret
        raise InvalidInput(
            "secret", "cannot be passed on the command line", "use --secret-from-stdin"
        )

    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    given_secret = (
        documents.read_hidden_value("secret", "Secret", "secret.txt").strip()
        if secret_from_stdin
        else None
    )
    destination = await api.destinations.add(
        url,
        name=name,
        token=token,
        timeout=timeout_seconds,
        tries=tries,
        secret=given_secret,
        replace=replace,
    )
    yield destination
    output.line(f"Saved the destination {destination.name} for {destination.url}")
    if destination.secret:
        _print_secret_once(destination.secret)
    for note in destination.notes:
        output.say(note)
    output.say(f"Try it: daybook callbacks destinations test {destination.name}")


def _print_destinations(listed: list[ListedDestination]) -> None:
    rows = [
        (
            each.name,
            str(each.url),
            str(each.token or "-"),
            f"{each.timeout:g} s" if isinstance(each.timeout, int | float) else str(each.timeout),
            str(each.tries),
            each.problem or formatting.signing_secret_state(each.rotating_until),
            ", ".join(each.jobs) or "-",
        )
        for each in listed
    ]
    if rows:
        headers = ("NAME", "URL", "TOKEN", "TIMEOUT", "TRIES", "SECRET", "JOBS")
        output.table(headers, rows, whole=("NAME",))
    else:
        output.say("No destinations; add one with `daybook callbacks destinations add`.")
    location = api.destinations.home_secret_location()
    output.say(f"Callbacks to other URLs are signed with the secret in {location}.")


destinations_list_ = documents.list_command(
    "destinations",
    """List destinations, without their secrets.

    Example: daybook callbacks destinations list
    """,
    _print_destinations,
)


@command(uses_prefect=True)
async def destinations_rotate_(
    name: Annotated[
        str | None,
        Parameter(help="The destination's name.", completer=completion.destinations),
    ] = None,
    /,
    *,
    homes: Annotated[
        bool,
        Parameter(
            name="--home", help="Rotate the home's secret, which signs for URLs without their own."
        ),
    ] = False,
    at_once: Annotated[
        bool,
        Parameter(name="--now", help="Stop using old secrets at once, for example after a leak."),
    ] = False,
) -> Answer:
    """Create a new signing secret and print it once.

    For 24 hours the old secret signs callbacks as well, so that the receiver can switch.

    Example: daybook callbacks destinations rotate ops
    """
    if homes is (name is not None):
        raise InvalidInput(
            "name",
            "cannot be combined with --home" if homes else "is missing",
            "pass a name from `daybook callbacks destinations list`, or --home",
        )
    destination = await api.destinations.rotate(name, at_once=at_once)
    yield destination
    output.line(f"The destination {name} has a new secret" if name else "The home has a new secret")
    _print_secret_once(destination.secret)
    if until := destination.rotating_until:
        output.say(f"The old secret also signs callbacks until {formatting.local_time(until)}.")


@command(uses_prefect=True)
async def destinations_test_(
    ref: Annotated[
        str,
        Parameter(
            name="NAME",
            help="A destination's name, or any URL.",
            completer=completion.destinations,
        ),
    ],
    /,
) -> Answer:
    """Send a signed `test` event; exit with 1 if the response is not 2xx.

    Example: daybook callbacks destinations test ops
    """
    result = await api.destinations.test(ref)
    yield result, 0 if result.ok else 1
    took = f"in {formatting.duration(result.seconds)}"
    outcome = result.error or f"{result.status_code}"
    style = "green" if result.ok else "red"
    output.line(f"{result.url}: {outcome} {took} ({result.id})", style=style)
    if result.note:
        output.say(result.note)


@command(uses_prefect=True)
async def destinations_remove_(
    name: Annotated[
        str, Parameter(help="The destination's name.", completer=completion.destinations)
    ],
    /,
) -> Answer:
    """Remove a destination.

    From then on, the next destination above its URL signs the callbacks to it, or, if there is
    none, the home's secret.

    Example: daybook callbacks destinations remove ops
    """
    users = await api.destinations.remove(name)
    yield {"removed": name, "jobs": users}
    output.line(f"Removed the destination {name}")
    if users:
        signer = "the next destination above its URL, or, if there is none, the home's secret,"
        output.say(f"From now on {signer} signs callbacks of {', '.join(users)}.")


def _print_callback(callback: NotificationDetails, absolute: bool) -> None:
    when = formatting.time_format(absolute)
    job, to = formatting.job_label(callback), formatting.recipient(callback)
    line = f"{callback.event} of {job} to {to}"
    style = output.STYLES.get(callback.status, "")
    output.line(f"{line}: {callback.status}", style=f"bold {style}".strip())
    is_pending = callback.status == "pending"
    pairs = [
        ("purpose", callback.purpose),
        ("created", when(callback.created_at)),
        (
            "ended",
            when(callback.finished_at) if callback.finished_at else "",
        ),
        (
            "next try",
            formatting.next_try(callback.next_at, callback.paused_until) if is_pending else "",
        ),
        ("paused", _paused_until(callback)),
        ("tries", "\n".join(_attempt_line(each, when) for each in callback.tries) or "none yet"),
        ("note", callback.note),
        ("run", callback.run_id or ""),
        ("id", callback.id),
        ("subject", callback.subject),
        *formatting.time_zone_field(absolute),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    output.line()
    output.line("\n".join(f"  {each}".rstrip() for each in _body_text(callback).splitlines()))
    if callback.status == "failed":
        output.say(f"Retry it with: daybook callbacks retry {formatting.short_id(callback.id)}")


def _paused_until(callback: NotificationDetails) -> str:
    until = callback.paused_until
    return (
        f"until {formatting.local_time(until)}, because its destination failed too often"
        if until
        else ""
    )


def _attempt_line(attempt: DeliveryAttempt, when: formatting.TimeFormat) -> str:
    """Return an attempt as a line: `2026-11-20 09:00:01  0.1 s  500  the answer was 500 …`."""
    code = attempt.status_code
    parts = [
        when(attempt.at),
        formatting.duration(attempt.seconds),
        str(code or ""),
        attempt.error,
    ]
    return "  ".join(filter(None, parts))


def _body_text(callback: NotificationDetails) -> str:
    """Return the body of a message, or of a callback as indented JSON if it is JSON."""
    if callback.purpose != "callback":
        return callback.body
    import json

    try:
        return json.dumps(json.loads(callback.body), ensure_ascii=False, indent=2)
    except ValueError:
        return callback.body


def _print_secret_once(secret: str) -> None:
    output.fields([("secret", secret)])
    output.say("Store it at the receiver now. It will not be shown again.")
