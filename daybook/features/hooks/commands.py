"""The `daybook hooks` commands: signed requests from outside that start a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, documents, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.field_options import FieldOptions, options_of, with_options
from daybook.cli.options import parse_json_object
from daybook.errors import InvalidInput
from daybook.features.hooks.settings import HookSettings

if TYPE_CHECKING:
    from daybook.features.hooks.operations import HookDetails

HookName = Annotated[
    str, Parameter(help="The hook's name.", completer=completion.documents("hook"))
]
SecretFromStdin = Annotated[
    bool, Parameter(help="Read the secret from standard input instead of creating one.")
]
TypedSecret = Annotated[str | None, Parameter(name="--secret", show=False)]


@Parameter(name="*")
@with_options({"": options_of(HookSettings.model_fields, "scheme", "filters", "rate")})
class HookOptions(FieldOptions):
    """Options of `daybook hooks add` for the settings of a hook."""


@command(uses_prefect=True)
async def add_(
    name: documents.NewName,
    /,
    *,
    job: Annotated[str, Parameter(help="Job that a request starts.", completer=completion.jobs)],
    options: HookOptions = HookOptions(),  # noqa: B008 - immutable
    secret_from_stdin: SecretFromStdin = False,
    replace: Annotated[
        bool, Parameter(help="Replace the existing hook of this name; its secret is kept.")
    ] = False,
    typed: TypedSecret = None,
) -> Answer:
    """Add a hook: a signed `POST /hooks/NAME` starts the job.

    A new secret is printed only once. The sender needs it to sign its requests.

    Example: daybook hooks add pull-requests --job review --filter 'action == opened'
    """
    from daybook.features.hooks import operations

    secret = _secret(secret_from_stdin, typed)
    hook = await operations.add(name, job, secret=secret, replace=replace, **options.given())
    yield hook
    output.line(f"Saved the hook {name} for {hook.job}")
    if hook.secret:
        _print_secret_once(hook.secret)
    for note in hook.notes:
        output.say(f"! {note}")
    output.say(f"Its address: {api.web_address.url()}{hook.path}")
    output.say(f"Try it: daybook hooks test {name}")


def _secret(from_stdin: bool, typed: str | None) -> str | None:
    if typed is not None:  # the error must not contain the secret
        raise InvalidInput(
            "secret", "cannot be passed on the command line", "use --secret-from-stdin"
        )
    return documents.read_hidden_value("secret", "Secret", "secret.txt") if from_stdin else None


def _print_hooks(listed: list[HookDetails]) -> None:
    rows = [
        (
            each.name,
            each.problem or each.job or "(removed)",
            str(each.scheme),
            _filters(each),
            f"{each.rate}/min",
            formatting.signing_secret_state(each.rotating_until),
        )
        for each in listed
    ]
    if rows:
        headers = ("NAME", "JOB", "SCHEME", "FILTERS", "RATE", "SECRET")
        output.table(headers, rows, whole=("NAME",))
    else:
        output.say("No hooks; add one with `daybook hooks add`.")


def _filters(hook: HookDetails) -> str:
    return ", ".join(map(str, hook.filters)) if isinstance(hook.filters, list) else "-"


def _print_hook(hook: HookDetails) -> None:
    output.line(hook.name, style="bold")
    pairs = [
        ("address", f"{api.web_address.url()}{hook.path}"),
        ("job", hook.job or "(removed)"),
        ("scheme", str(hook.scheme)),
        ("filters", _filters(hook)),
        ("rate", f"{hook.rate} per minute"),
        ("secret", formatting.signing_secret_state(hook.rotating_until)),
        ("problem", hook.problem or ""),
    ]
    output.fields([(name, value) for name, value in pairs if value])


list_ = documents.list_command(
    "daybook.features.hooks.operations:list_hooks",
    """List hooks with their jobs, without their secrets.

    Example: daybook hooks list
    """,
    _print_hooks,
)
show_ = documents.show_command(
    "daybook.features.hooks.operations:show",
    "hook",
    """Show a hook and its address, without its secrets.

    Example: daybook hooks show pull-requests
    """,
    _print_hook,
)
remove_ = documents.remove_command(
    "daybook.features.hooks.operations:remove",
    "hook",
    """Remove a hook; its requests are refused from then on. Its runs stay.

    Example: daybook hooks remove pull-requests
    """,
)


@command(uses_prefect=True)
async def rotate_(
    name: HookName,
    /,
    *,
    secret_from_stdin: SecretFromStdin = False,
    at_once: Annotated[
        bool,
        Parameter(name="--now", help="End the old secrets at once, for example after a leak."),
    ] = False,
    typed: TypedSecret = None,
) -> Answer:
    """Give a hook a new secret; print it once if Daybook creates it.

    For 24 hours the old secret is valid as well, so that the sender can switch.

    Example: daybook hooks rotate pull-requests
    """
    from daybook.features.hooks import operations

    secret = _secret(secret_from_stdin, typed)
    rotated = await operations.rotate(name, secret=secret, at_once=at_once)
    yield rotated
    output.line(f"The hook {name} has a new secret")
    if rotated.secret:
        _print_secret_once(rotated.secret)
    if until := rotated.rotating_until:
        output.say(f"The old secret is also valid until {formatting.local_time(until)}.")


@command(uses_prefect=True)
async def test_(
    name: HookName,
    /,
    *,
    payload: Annotated[
        str | None,
        Parameter(help='JSON object to send, or @file. [default: {"test": true}]'),
    ] = None,
    url: Annotated[
        str,
        Parameter(help="Address of the web server. [default: that of this machine]"),
    ] = "",
) -> Answer:
    """Send a signed request to a hook, as its sender would; exit with 1 if it is refused.

    The run that it starts is a real one.

    Example: daybook hooks test pull-requests --payload '{"action": "opened"}'
    """
    from daybook.features.hooks import operations

    given = None if payload is None else parse_json_object("payload", payload)
    result = await operations.test(name, given, url=url)
    yield result, 0 if result.ok else 1
    answer = f"{result.status_code or 'no answer'} {result.answer}"
    output.line(f"{result.url}: {answer}", style="green" if result.ok else "red")
    if result.run_id:
        output.say(f"Follow its run: daybook show {result.run_id[:12]}")


def _print_secret_once(secret: str) -> None:
    output.fields([("secret", secret)])
    output.say("Store it at the sender now. It will not be shown again.")
