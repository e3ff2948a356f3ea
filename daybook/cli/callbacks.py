"""The `daybook callbacks` and `daybook callbacks destinations` commands."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json, prepare_prefect
from daybook.cli.secrets import read_secret_value
from daybook.errors import InvalidInput

Name = Annotated[str, Parameter(help="The destination's name.")]


async def list_(
    *,
    status: Annotated[
        str | None, Parameter(help="Only those that are pending, delivered or failed.")
    ] = None,
    job: Annotated[
        str | None, Parameter(help="Only those of this job, also a removed one.")
    ] = None,
    limit: Annotated[int, Parameter(help="The most that are listed.", show_default=True)] = 50,
    as_json: Json = False,
) -> int:
    """List callbacks and messages with their state, newest first.

    Needs no Prefect. Times are by this machine's clock.

    Example: daybook callbacks list --status failed
    """
    if limit < 1:
        raise InvalidInput("limit", f"{limit} is not legal", "legal: 1 or more")
    from daybook.api import callbacks

    listed = await callbacks.list_callbacks(status, job, limit)
    if as_json:
        output.print_json(listed)
    elif listed:
        output.table(
            ("ID", "JOB", "EVENT", "TO", "STATUS", "TRIES", "ASKED", "WHY"),
            [
                (
                    formatting.short_id(each["id"]),
                    formatting.job_label(each),
                    each["event"],
                    formatting.recipient(each),
                    each["status"],
                    str(each["attempts"]),
                    formatting.local_time(each["created_at"]),
                    formatting.first_line(each["error"]),
                )
                for each in listed
            ],
            whole=("ID", "STATUS"),
            cut=True,
        )
    elif status or job:
        output.say("There are none of these.")
    else:
        output.say(
            "Nobody was to be told anything yet; `daybook add --help` says how: --on-complete, "
            "--on-fail, --channel."
        )
    return 0


async def show_(
    ref: Annotated[str, Parameter(name="ID", help="Its id, or the unique beginning of it.")],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Show a callback or a message: what was sent, and what came of each try.

    Needs no Prefect. Times are by this machine's clock.

    Example: daybook callbacks show 5f0c22ab
    """
    from daybook.api import callbacks

    callback = await callbacks.show(ref)
    if as_json:
        output.print_json(callback)
    else:
        _print_callback(callback)
    return 0


async def retry_(
    *refs: Annotated[str, Parameter(name="ID", help="Their ids, or the unique beginnings.")],
    failed: Annotated[bool, Parameter(help="All that failed.")] = False,
    as_json: Json = False,
) -> int:
    """Try again what failed; what is pending is tried now.

    The leader sends it: a worker's keeper, or `daybook keeper`.

    Example: daybook callbacks retry --failed
    """
    from daybook.api import callbacks

    count = await callbacks.retry(refs, failed=failed)
    if as_json:
        output.print_json({"retried": count})
    elif count:
        output.line(f"To be tried again now: {count}")
        output.say("See what becomes of it: daybook callbacks list")
    else:
        output.say("None has failed.")
    return 0


async def destinations_add_(
    url: Annotated[
        str,
        Parameter(help="An address, or its beginning up to a slash: the longest that fits counts."),
    ],
    /,
    *,
    name: Annotated[
        str | None,
        Parameter(help="Lowercase letters, digits and dashes. Default: made of the address."),
    ] = None,
    token: Annotated[
        str | None,
        Parameter(
            help="The name of a secret (`daybook secrets add`) that is sent as Authorization: "
            "Bearer."
        ),
    ] = None,
    timeout: Annotated[
        str, Parameter(help="How long one try may take, up to 45s.", show_default=True)
    ] = "15s",
    tries: Annotated[
        int, Parameter(help="How often it is tried, over about a day.", show_default=True)
    ] = 11,
    secret_from_stdin: Annotated[
        bool, Parameter(help="Read the whsec_… secret from standard input; else one is made.")
    ] = False,
    replace: Annotated[
        bool, Parameter(help="In place of the one of this name, if there is one; its secret stays.")
    ] = False,
    typed: Annotated[str | None, Parameter(name="--secret", show=False)] = None,
    as_json: Json = False,
) -> int:
    """Give an address a signing secret of its own, a token, a timeout, a number of tries.

    The secret that is made is printed here and never again: its receiver checks signatures by it,
    as Standard Webhooks say.

    Example: daybook callbacks destinations add https://ops.example.org/hook --token ops-token
    """
    if typed is not None:  # the error must not repeat the secret
        raise InvalidInput("secret", "is never an argument", "--secret-from-stdin reads it")
    from daybook.schedules import durations

    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    given_secret = read_secret_value("secret").strip() if secret_from_stdin else None
    prepare_prefect()
    from daybook.api import destinations

    destination = await destinations.add(
        url,
        name=name,
        token=token,
        timeout=timeout_seconds,
        tries=tries,
        secret=given_secret,
        replace=replace,
    )
    if as_json:
        output.print_json(destination)
        return 0
    output.line(f"Keeps the destination {destination['name']}, for {destination['url']}")
    _print_secret_once(destination)
    for note in destination["notes"]:
        output.say(note)
    output.say(f"Try it: daybook callbacks destinations test {destination['name']}")
    return 0


async def destinations_list_(*, as_json: Json = False) -> int:
    """List the addresses that have settings of their own; never a secret.

    Example: daybook callbacks destinations list
    """
    prepare_prefect()
    from daybook.api import destinations

    listed = await destinations.list_destinations()
    if as_json:
        output.print_json(listed)
    elif listed:
        output.table(
            ("NAME", "URL", "TOKEN", "TIMEOUT", "TRIES", "SECRET", "JOBS"),
            [
                (
                    each["name"],
                    each["url"],
                    each["token"] or "-",
                    f"{each['timeout']:g} s",
                    str(each["tries"]),
                    each["problem"] or formatting.signing_secret_state(each["rotating_until"]),
                    ", ".join(each["jobs"]) or "-",
                )
                for each in listed
            ],
            whole=("NAME",),
        )
    else:
        output.say("There are none; `daybook callbacks destinations add --help` says how to add.")
    if not as_json:
        output.say(
            f"Callbacks to other addresses are signed by {destinations.home_secret_location()}."
        )
    return 0


async def destinations_rotate_(
    name: Annotated[str | None, Parameter(help="The destination's name.")] = None,
    /,
    *,
    homes: Annotated[
        bool,
        Parameter(name="--home", help="The home's secret, for addresses without one of their own."),
    ] = False,
    at_once: Annotated[
        bool, Parameter(name="--now", help="All old ones end now, as when one was given away.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Make a new signing secret, printed here and never again.

    For 24 hours callbacks are signed by the old one as well, so that the receiver can change.

    Example: daybook callbacks destinations rotate ops
    """
    if homes is (name is not None):
        raise InvalidInput("name", "give it, or --home", "`daybook callbacks destinations list`")
    prepare_prefect()
    from daybook.api import destinations

    destination = await destinations.rotate(name, at_once=at_once)
    if as_json:
        output.print_json(destination)
        return 0
    output.line(f"The destination {name} has a new secret" if name else "There is a new secret")
    _print_secret_once(destination)
    if until := destination["rotating_until"]:
        output.say(
            f"Callbacks are signed by the old one as well until {formatting.local_time(until)}."
        )
    return 0


async def destinations_test_(
    ref: Annotated[str, Parameter(name="NAME", help="A destination's name, or any address.")],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Send a signed event `test` there, once; exit code 1 when the answer is not 2xx.

    Example: daybook callbacks destinations test ops
    """
    prepare_prefect()
    from daybook.api import destinations

    result = await destinations.test(ref)
    if as_json:
        output.print_json(result)
    else:
        took = f"in {formatting.duration(result['seconds'])}"
        outcome = result["error"] or f"{result['status_code']}"
        style = "green" if result["ok"] else "red"
        output.line(f"{result['url']}: {outcome} {took} ({result['id']})", style=style)
        if result["note"]:
            output.say(result["note"])
    return 0 if result["ok"] else 1


async def destinations_remove_(name: Name, /, *, as_json: Json = False) -> int:
    """Forget a destination; callbacks to it are signed by this home's own secret from then on.

    Example: daybook callbacks destinations remove ops
    """
    prepare_prefect()
    from daybook.api import destinations

    users = await destinations.remove(name)
    if as_json:
        output.print_json({"removed": name, "jobs": users})
        return 0
    output.line(f"Removed the destination {name}")
    if users:
        output.say(f"Callbacks of {', '.join(users)} are signed by the home's secret from now on.")
    return 0


def _print_callback(callback: dict[str, Any]) -> None:
    job, to = formatting.job_label(callback), formatting.recipient(callback)
    line = f"{callback['event']} of {job} to {to}"
    style = output.STYLES.get(callback["status"], "")
    output.line(f"{line}: {callback['status']}", style=f"bold {style}".strip())
    is_pending = callback["status"] == "pending"
    pairs = [
        ("is a", callback["purpose"]),
        ("asked", formatting.local_time(callback["created_at"])),
        (
            "ended",
            formatting.local_time(callback["finished_at"]) if callback["finished_at"] else "",
        ),
        (
            "next try",
            formatting.next_try(callback["next_at"], callback["paused_until"])
            if is_pending
            else "",
        ),
        ("held back", _paused_until(callback)),
        ("tries", "\n".join(map(_attempt_line, callback["tries"])) or "none yet"),
        ("note", callback["note"]),
        ("run", callback["run_id"] or ""),
        ("id", callback["id"]),
        ("subject", callback["subject"]),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    output.line()
    output.line("\n".join(f"  {each}".rstrip() for each in _body_text(callback).splitlines()))
    if callback["status"] == "failed":
        output.say(
            f"To try it again: daybook callbacks retry {formatting.short_id(callback['id'])}"
        )


def _paused_until(callback: dict[str, Any]) -> str:
    until = callback["paused_until"]
    return (
        f"until {formatting.local_time(until)}: its destination failed too often" if until else ""
    )


def _attempt_line(attempt: dict[str, Any]) -> str:
    """Return `2026-11-20 09:00:01  0.1 s  500  the answer was 500 …`."""
    code = attempt["status_code"]
    parts = [
        formatting.local_time(attempt["at"]),
        formatting.duration(attempt["seconds"]),
        str(code or ""),
        attempt["error"],
    ]
    return "  ".join(filter(None, parts))


def _body_text(callback: dict[str, Any]) -> str:
    """Return the body of a message, or the indented JSON of a callback."""
    if callback["purpose"] != "callback":
        return str(callback["body"])
    import json

    try:
        return json.dumps(json.loads(callback["body"]), ensure_ascii=False, indent=2)
    except ValueError:
        return str(callback["body"])


def _print_secret_once(destination: dict[str, Any]) -> None:
    if destination.get("secret"):
        output.fields([("secret", destination["secret"])])
        output.say("Give the secret to the receiver now: it is not shown again.")
