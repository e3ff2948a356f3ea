"""The `daybook callbacks destinations` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, documents, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.field_options import FieldOption, FieldOptions, options_of, with_options
from daybook.delivery.destination_settings import DestinationSettings
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.api.destinations import DestinationDetails

_DESTINATION = DestinationSettings.model_fields
_NAMES = completion.documents("destination")


@Parameter(name="*")
@with_options(
    {
        "": [
            *options_of(_DESTINATION, "token"),
            FieldOption(
                "timeout",
                _DESTINATION["timeout"],
                help="Timeout of each attempt, up to 45s. [default: 15s]",
            ),
            *options_of(_DESTINATION, "tries"),
        ]
    }
)
class DestinationOptions(FieldOptions):
    """Options of `daybook callbacks destinations add` for the settings of a destination."""


@command(uses_prefect=True)
async def add_(
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
    options: DestinationOptions = DestinationOptions(),  # noqa: B008 - immutable
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
    if typed is not None:  # the error must not contain the secret
        raise InvalidInput(
            "secret", "cannot be passed on the command line", "use --secret-from-stdin"
        )
    given_secret = (
        documents.read_hidden_value("secret", "Secret", "secret.txt").strip()
        if secret_from_stdin
        else None
    )
    destination = await api.destinations.add(
        url, name=name, secret=given_secret, replace=replace, **options.given()
    )
    yield destination
    output.line(f"Saved the destination {destination.name} for {destination.url}")
    if destination.secret:
        _print_secret_once(destination.secret)
    for note in destination.notes:
        output.say(note)
    output.say(f"Try it: daybook callbacks destinations test {destination.name}")


def _print_destinations(listed: list[DestinationDetails]) -> None:
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


list_ = documents.list_command(
    "daybook.api.destinations:list_destinations",
    """List destinations, without their secrets.

    Example: daybook callbacks destinations list
    """,
    _print_destinations,
)


@command(uses_prefect=True)
async def rotate_(
    name: Annotated[
        str | None,
        Parameter(help="The destination's name.", completer=_NAMES),
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
async def test_(
    ref: Annotated[
        str,
        Parameter(
            name="NAME",
            help="A destination's name, or any URL.",
            completer=_NAMES,
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
async def remove_(
    name: Annotated[str, Parameter(help="The destination's name.", completer=_NAMES)],
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


def _print_secret_once(secret: str) -> None:
    output.fields([("secret", secret)])
    output.say("Store it at the receiver now. It will not be shown again.")
