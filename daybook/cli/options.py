"""The options that several commands share.

An attribute of `JobOptions` has the name of the service's field, except those in
`RENAMED_FIELDS`; its `Parameter` defines the spelling.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from daybook.errors import InvalidInput

_WHEN = Group("When", sort_key=1)
_WHAT = Group("What", sort_key=2)
_WEBHOOK = Group("A webhook", sort_key=3)
_TOOL = Group("A tool", sort_key=4)
_CHECK = Group("Checks", sort_key=5)
_EXECUTION = Group("How", sort_key=6)
_NOTIFICATIONS = Group("Notifications", sort_key=7)

_JSON_OBJECT_EXAMPLES = {
    "output_schema": """such as '{"type": "object"}' or @schema.json""",
    "params": """such as '{"full": true}' or @params.json""",
    "check_params": """such as '{"folder": "inbox"}' or @params.json""",
}
"""The options that take a JSON object, each with an example."""

RENAMED_FIELDS = {"webhook": "url", "header": "headers"}
"""The options whose field has another name in the service."""

_CHECK_FIELDS = ("tool", "params", "prompt", "agent", "command")
"""The keys of the field `check`; their options begin with ``check_``."""

Json = Annotated[bool, Parameter(name="--json", help="Print JSON, and nothing else, on stdout.")]
Job = Annotated[str, Parameter(help="Name, id, or unique beginning of the id.")]
Prompt = Annotated[
    str | None,
    Parameter(help="What the agent is asked. It may name {{due}}, {{job}} and {{last_output}}."),
]
Cron = Annotated[
    str | None,
    Parameter(
        group=_WHEN,
        help='Five fields, six with seconds first, or @daily and the like: "0 9 * * 1-5".',
    ),
]
Every = Annotated[str | None, Parameter(group=_WHEN, help="An interval: 90s, 30m, 1h30m, 2d.")]
At = Annotated[
    str | None, Parameter(group=_WHEN, help="Once: 2027-01-15T14:30:00+01:00, or in 30m.")
]
Zone = Annotated[
    str | None,
    Parameter(
        name="--tz", group=_WHEN, help="IANA zone, such as Europe/Berlin. Default: the setting."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of `daybook add` and `daybook edit`, without the prompt."""

    cron: Cron = None
    every: Every = None
    at: At = None
    on_demand: Annotated[bool, Parameter(group=_WHEN, help="Never due by itself: run by hand.")] = (
        False
    )
    timezone: Zone = None
    start: Annotated[
        str | None,
        Parameter(group=_WHEN, help="Not due before: 2027-01-15, or 2027-01-15T09:00."),
    ] = None
    until: Annotated[
        str | None,
        Parameter(group=_WHEN, help="Not due after: 2027-01-15 (included), or 2027-01-15T09:00."),
    ] = None
    exclude: Annotated[
        list[str] | None,
        Parameter(
            group=_WHEN,
            help="Not due on 2026-12-25, or 2026-12-24..2027-01-01; may be given several times. "
            "'' takes them all away.",
        ),
    ] = None
    active_hours: Annotated[
        str | None,
        Parameter(group=_WHEN, help="Due only from 09:00-17:00, say, by the job's clock."),
    ] = None
    quiet_hours: Annotated[
        list[str] | None,
        Parameter(
            group=_WHEN,
            help="Not due within 12:00-13:00, say; may be given several times. '' takes them all "
            "away.",
        ),
    ] = None
    stagger: Annotated[
        str | None,
        Parameter(
            group=_WHEN,
            help="Start up to this much later, always by the same amount: 5m. Pass '' to clear.",
        ),
    ] = None
    max_runs: Annotated[
        int | None,
        Parameter(group=_WHEN, help="Off after so many runs. Default: no limit (0)."),
    ] = None

    name: Annotated[
        str | None,
        Parameter(group=_WHAT, help="Unique. Default: the beginning of the prompt."),
    ] = None
    agent: Annotated[
        str | None, Parameter(group=_WHAT, help="The agent that is asked. Default: `default`.")
    ] = None
    model: Annotated[
        str | None, Parameter(group=_WHAT, help="The model, in place of the agent's own.")
    ] = None
    session: Annotated[
        str | None,
        Parameter(
            group=_WHAT,
            help="reuse (the default): its runs continue one conversation; new: each begins one; "
            "chat: they continue that of their channel and chat id.",
        ),
    ] = None
    session_key: Annotated[
        str | None,
        Parameter(
            group=_WHAT,
            help="A name: all jobs of the same agent that give it share one conversation; "
            "with another agent it is another one.",
        ),
    ] = None
    output_format: Annotated[
        str | None,
        Parameter(group=_WHAT, help="The answer is text (the default), json, or structured."),
    ] = None
    output_schema: Annotated[
        str | None,
        Parameter(
            group=_WHAT,
            help="The JSON schema of a structured answer: JSON, or @file; {} takes it away.",
        ),
    ] = None
    webhook: Annotated[
        str | None,
        Parameter(group=_WEBHOOK, help="The address that is called, in place of a prompt."),
    ] = None
    method: Annotated[str | None, Parameter(group=_WEBHOOK, help="Default: POST.")] = None
    header: Annotated[
        list[str] | None,
        Parameter(
            group=_WEBHOOK,
            help='"Name: value", may be given several times; a secret only as {{secret:name}}.',
        ),
    ] = None
    body: Annotated[
        str | None,
        Parameter(group=_WEBHOOK, help="What is sent, or @file; JSON unless a header says so."),
    ] = None
    tool: Annotated[
        str | None,
        Parameter(
            group=_TOOL,
            help="What is called in place of a prompt: a name or server.tool, as `daybook tools "
            "list` shows them, or https://host/path#tool of an MCP server.",
        ),
    ] = None
    params: Annotated[
        str | None,
        Parameter(
            group=_TOOL,
            help="What it is called with: a JSON object, or @file; a secret only as "
            "{{secret:name}}; {} takes them away.",
        ),
    ] = None
    description: Annotated[str | None, Parameter(group=_WHAT, help="For people.")] = None
    tags: Annotated[
        list[str] | None,
        Parameter(name="--tag", group=_WHAT, help="May be given several times."),
    ] = None
    metadata: Annotated[
        list[str] | None,
        Parameter(
            group=_WHAT,
            help="name=value for programs, or a JSON object; repeatable. Replaces all "
            "metadata; '' clears it.",
        ),
    ] = None

    check_tool: Annotated[
        str | None,
        Parameter(
            group=_CHECK,
            help="A tool that says whether the run is to be at all: true, or false and it is "
            "skipped. '' takes the check away, whatever it is.",
        ),
    ] = None
    check_params: Annotated[
        str | None,
        Parameter(group=_CHECK, help="What that tool is called with: a JSON object, or @file."),
    ] = None
    check_prompt: Annotated[
        str | None,
        Parameter(
            group=_CHECK,
            help="The same as a question to an agent, such as: is there mail? It may name "
            "{{due}}, {{job}} and {{last_output}}.",
        ),
    ] = None
    check_agent: Annotated[
        str | None,
        Parameter(group=_CHECK, help="Who is asked that, a fast one. Default: the job's agent."),
    ] = None
    check_command: Annotated[
        str | None,
        Parameter(
            group=_CHECK,
            help="The same as a program and its arguments; no shell reads them. It ends with 0 to "
            "run, with 1 to skip; anything else is a failure.",
        ),
    ] = None

    timeout: Annotated[
        str | None,
        Parameter(
            group=_EXECUTION, help="How long one attempt may take. Default: 30m; of a webhook 30s."
        ),
    ] = None
    deadline: Annotated[
        str | None,
        Parameter(
            group=_EXECUTION,
            help="How long a run may take in all, waiting included. Default: no limit ('').",
        ),
    ] = None
    retries: Annotated[
        int | None,
        Parameter(
            group=_EXECUTION,
            help="How often a temporary error is tried again, 0 to 10. Default: 3; of a webhook "
            "or a tool 0.",
        ),
    ] = None
    retry_delay: Annotated[
        str | None,
        Parameter(
            group=_EXECUTION,
            help="The wait before a retry, 1s to 5m, doubled each time. Default: 1s.",
        ),
    ] = None
    overlap: Annotated[
        str | None,
        Parameter(
            group=_EXECUTION,
            help="A run is due while one of the job is going: skip (the default) it; queue_one or "
            "queue_all to let it wait; cancel_running to end that one; allow both.",
        ),
    ] = None
    catch_up: Annotated[
        str | None,
        Parameter(
            group=_EXECUTION,
            help="Due times that passed while nothing ran: none, latest (the default), or all of "
            "the last 24 hours.",
        ),
    ] = None
    class_: Annotated[
        str | None,
        Parameter(
            name="--class",
            group=_EXECUTION,
            help="light, medium (the default) or resource-intensive: see DAYBOOK_MAX_LIGHT and "
            "the like.",
        ),
    ] = None
    pause_after_failures: Annotated[
        int | None,
        Parameter(
            group=_EXECUTION, help="Off after so many failures in a row. Default: 10; 0: never."
        ),
    ] = None
    delete_after_run: Annotated[
        bool | None,
        Parameter(
            group=_EXECUTION,
            negative="--no-delete-after-run",
            help="With --at: the job is removed when its run has succeeded.",
        ),
    ] = None
    idempotent: Annotated[
        bool | None,
        Parameter(
            group=_EXECUTION,
            negative="--no-idempotent",
            help="What is called knows its Idempotency-Key, so it may be called again when its "
            "answer was lost.",
        ),
    ] = None
    on_lost: Annotated[
        str | None,
        Parameter(
            group=_EXECUTION,
            help="When its process vanished at work: unknown (the default), or rerun, "
            "which may do a thing twice.",
        ),
    ] = None
    tokens_per_run: Annotated[
        int | None,
        Parameter(
            group=_EXECUTION,
            help="The most tokens of a run; then it is stopped. Default: no limit (0).",
        ),
    ] = None
    tokens_per_day: Annotated[
        int | None,
        Parameter(
            group=_EXECUTION,
            help="The most tokens of the job in a day of its clock; then its runs are skipped. "
            "Default: no limit (0).",
        ),
    ] = None
    disabled: Annotated[
        bool, Parameter(group=_EXECUTION, help="The job is off: run by hand only.")
    ] = False

    on_complete: Annotated[
        str | None,
        Parameter(
            group=_NOTIFICATIONS,
            help="An address that gets the run as JSON when it has succeeded; '' none.",
        ),
    ] = None
    on_fail: Annotated[
        str | None,
        Parameter(
            group=_NOTIFICATIONS,
            help="The same after a failure, or as --notify says. Pass '' to clear.",
        ),
    ] = None
    channel: Annotated[
        str | None,
        Parameter(
            group=_NOTIFICATIONS,
            help="Where answers and alerts go: inbox, file, console, or a block's name, as "
            "`daybook channels list` shows them. Pass '' to clear.",
        ),
    ] = None
    chat_id: Annotated[
        str | None,
        Parameter(group=_NOTIFICATIONS, help="Which chat of the channel; of file the file's name."),
    ] = None
    events: Annotated[
        list[str] | None,
        Parameter(
            name="--notify",
            group=_NOTIFICATIONS,
            help="What is told: completed and failed (the default), cancelled, missed; may be "
            "given several times.",
        ),
    ] = None
    template: Annotated[
        str | None,
        Parameter(
            group=_NOTIFICATIONS,
            help="A message's words: {{job}}, {{status}}, {{due}}, {{output}}, {{error}}, "
            "{{reason}}, {{run}}. Default: the answer.",
        ),
    ] = None
    only_changed: Annotated[
        bool | None,
        Parameter(
            group=_NOTIFICATIONS,
            negative="--no-only-changed",
            help="An answer like the last one is not sent to the channel.",
        ),
    ] = None
    progress: Annotated[
        str | None,
        Parameter(
            group=_NOTIFICATIONS,
            help="Send a note to the channel during a run, such as every 10m. Pass '' to clear.",
        ),
    ] = None
    silent: Annotated[
        bool | None,
        Parameter(
            group=_NOTIFICATIONS,
            negative="--no-silent",
            help="Nothing is sent for now; alerts go to you.",
        ),
    ] = None

    def fields(self) -> dict[str, object]:
        """Return the given options by the service's field names; read the files that they name."""
        given = _given_fields(self)
        if given.pop("disabled", False):
            given["enabled"] = False
        for name in _JSON_OBJECT_EXAMPLES:
            if (text := getattr(self, name)) is not None:
                given[name] = parse_json_object(name, text)
        if self.webhook is not None:
            given["url"] = given.pop("webhook")
        if self.header is not None:
            del given["header"]
            given["headers"] = dict(header(each) for each in self.header)
        if self.metadata is not None:
            parts = [metadata(each) for each in self.metadata if each]
            given["metadata"] = {name: each[name] for each in parts for name in each}
        if self.body is not None and self.body.startswith("@"):
            given["body"] = _read_file("body", self.body[1:])
        if check := self._take_check(given):
            given["check"] = check
        return given

    def _take_check(self, given: dict[str, object]) -> dict[str, object]:
        """Remove the check options from ``given`` and return them as the field `check`."""
        typed = {name: given.pop(f"check_{name}", None) for name in _CHECK_FIELDS}
        if self.check_command is not None:
            typed["command"] = split_command("check_command", self.check_command)
        return {name: value for name, value in typed.items() if value is not None}


def _given_fields(options: JobOptions) -> dict[str, object]:
    return {
        each.name.rstrip("_"): value
        for each in fields(options)
        if (value := getattr(options, each.name)) is not each.default  # 0 and False count as given
    }


def split_command(field: str, text: str) -> list[str]:
    """Split a program and its arguments; quotes work as in a shell."""
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidInput(
            field, f"{text!r} is not legal: {error}", "close what was opened"
        ) from None


def metadata(text: str) -> dict[str, object]:
    """Parse one `--metadata` option: `name=value`, or a JSON object."""
    if text.lstrip().startswith("{"):
        return parse_json_object("metadata", text)
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InvalidInput("metadata", f'"{text}" has no name', "write name=value")
    return {name.strip(): value}


def header(text: str) -> tuple[str, str]:
    """Parse `Name: value`; return the name and the value."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # Without a name the text may be a secret, so the error must not repeat it.
        raise InvalidInput("header", "one has no name", 'write "Name: value"')
    return name.strip(), value.strip()


def text_or_file(field: str, text: str) -> str:
    """Return the text, or the content of the file if the text is `@` and a path."""
    return _read_file(field, text[1:]) if text.startswith("@") else text


def _read_file(field: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidInput(field, f"{path} cannot be read: {why}") from error


def parse_json_object(field: str, text: str) -> dict[str, object]:
    """Parse a JSON object, or the file if the text is `@` and a path."""
    import json

    if text.startswith("@"):
        text = _read_file(field, text[1:])
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            field, f"is no JSON: {error}", _JSON_OBJECT_EXAMPLES.get(field, "")
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(field, "is no JSON object", _JSON_OBJECT_EXAMPLES.get(field, ""))
    return value


def prepare_prefect() -> None:
    """Point Prefect at the right server; call this before importing anything of Prefect.

    From then on the process may hold a credential, so other processes of this user
    cannot inspect it.
    """
    from daybook import home
    from daybook.processes import proc

    proc.deny_inspection()
    home.configure_prefect()
