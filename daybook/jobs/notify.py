"""Notifications of a job's runs: callbacks, a channel, or none.

===========  ==================================  ================================================
event        the run ended as                    goes to
===========  ==================================  ================================================
completed    succeeded                           `on_complete`; the answer to the channel
failed       failed, timed_out, unknown          `on_fail`; to the channel as an alert: the first
                                                 failure, then at most one reminder an hour
cancelled    cancelled                           `on_fail`, and the channel
missed       missed                              `on_fail`, and the channel
===========  ==================================  ================================================

A skipped run is not an event. Daybook sends only the events in a job's `events`, with three
exceptions. An alert, or the message about a recovery, that does not go to the job's channel goes to
the operator's channel. Progress messages, and the questions of approvals
(`daybook.runs.approvals`), do not depend on `events`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from daybook.errors import InvalidInput
from daybook.jobs import prompts
from daybook.jobs.action_fields import MAX_URL_LENGTH, is_readable
from daybook.jobs.actions import Words
from daybook.markers import Marker
from daybook.schedules.durations import Progress
from daybook.validation import raising_pydantic_error

Event = Literal["completed", "failed", "cancelled", "missed"]
EVENTS: tuple[Event, ...] = get_args(Event)
DEFAULT_EVENTS: tuple[Event, ...] = ("completed", "failed")

CALLBACK_FIELDS: dict[Event, str] = {
    "completed": "on_complete",
    "failed": "on_fail",
    "cancelled": "on_fail",
    "missed": "on_fail",
}
"""Field of `Notify` with the callback URL of each event."""

VARIABLES = ("job", "status", "due", "output", "error", "reason", "run")
"""Variables of a template, such as `{{output}}`."""

SILENT_MARKERS = ("[SILENT]", "NO_REPLY", "HEARTBEAT_OK")
"""Markers of answers that are not sent: that of Daybook and Hermes, and the two of OpenClaw.

They apply to every job, because the prompts of imported jobs request the markers of their system.
"""
_DECORATION = " \t\r\n*_`\"'."
"""Characters that models write around a marker, as in `**[SILENT]**`."""

MAX_NAME_LENGTH = 200
"""Maximum length, in characters, of a channel's name and of a chat id."""

Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_NAME_LENGTH)]


def is_silent(answer: str) -> bool:
    """Return whether an answer is not sent to the channel; the callback is still sent.

    It is empty, or its last line is only one of `SILENT_MARKERS`, in upper or lower case, as models
    often explain above why they have nothing to report. A marker within a line, or in a quoted
    block at the end, does not count.
    """
    answer = answer.strip()
    last_line = (answer.splitlines() or [""])[-1]
    ends = {each.strip(_DECORATION).upper() for each in (answer, last_line)}
    return not answer or not ends.isdisjoint(SILENT_MARKERS)


def may_become_silent(text: str) -> bool:
    """Return whether an answer is silent, or may be if the text so far is not its end.

    Its last line then begins one of `SILENT_MARKERS`.
    """
    last_line = (text.strip().splitlines() or [""])[-1].strip(_DECORATION).upper()
    return is_silent(text) or any(each.startswith(last_line) for each in SILENT_MARKERS)


def _url(url: str) -> str:
    if url and not (re.match(r"https?://", url, re.IGNORECASE) and is_readable(url)):
        raise InvalidInput(
            "url", "is not a valid URL", "use one such as https://ops.example.org/hook"
        )
    if len(url) > MAX_URL_LENGTH or "{{" in url:
        raise InvalidInput(
            "url",
            "is not a valid callback URL",
            f"use at most {MAX_URL_LENGTH:,} characters, without {{{{variables}}}}",
        )
    return url


def _callback(field: str) -> AfterValidator:
    def validate(url: str) -> str:
        with raising_pydantic_error():
            try:
                return _url(url.strip())
            except InvalidInput as error:
                raise InvalidInput(field, error.problem, error.hint) from None

    return AfterValidator(validate)


def _template(text: str) -> str:
    with raising_pydantic_error():
        prompts.check(text, VARIABLES, "template")
    return text


class Notify(BaseModel):
    """Recipients of a job's answers, failures and other events."""

    # A new kind of callback needs a field here, and an entry in `CALLBACK_FIELDS` for each event.

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: Annotated[tuple[Event, ...], Marker(option="notify")] = Field(
        default=DEFAULT_EVENTS,
        title="Events",
        description="Outcomes to report: completed, failed (including timed out and unknown), "
        "cancelled, missed.",
    )
    channel: Annotated[Name, Marker(names="channel", is_checked=True)] = Field(
        default="",
        title="Channel",
        description="Channel for answers and alerts: inbox, file, console, or a name; see "
        "`daybook channels list`.",
    )
    chat_id: Annotated[Name, Marker(is_checked=True)] = Field(
        default="",
        title="Chat id",
        description="Chat within the channel, if it has several; for the file channel, the "
        "file's name.",
    )
    on_complete: Annotated[
        str,
        _callback("on_complete"),
        Marker(for_agents="URL that receives the run", is_checked=True),
    ] = Field(
        default="",
        title="On complete",
        description="URL that receives the run as JSON after it has succeeded.",
    )
    on_fail: Annotated[
        str,
        _callback("on_fail"),
        Marker(for_agents="URL that receives a failed run", is_checked=True),
    ] = Field(
        default="",
        title="On fail",
        description="URL that receives the run as JSON after it has failed; also after it was "
        "cancelled or missed, if those events are reported.",
    )
    template: Annotated[str, AfterValidator(_template), Marker(is_long=True)] = Field(
        default="",
        title="Template",
        description="Message text, with {{job}}, {{status}}, {{due}}, {{output}}, "
        "{{error}}, {{reason}} and {{run}}. Empty: the answer, or the error.",
    )
    only_changed: bool = Field(
        default=False,
        title="Only changed",
        description="Do not send an answer to the channel if it equals the last one.",
    )
    attach_files: Annotated[bool, Marker(is_checked=True)] = Field(
        default=False,
        title="Attach files",
        description="Attach the files that the run has written to the mail with its outcome, up to "
        "2 MiB together.",
    )
    silent: bool = Field(
        default=False,
        title="Silent",
        description="Send nothing for now; alerts go to the operator.",
    )
    progress: Progress = Field(
        default=None,
        title="Progress",
        description="Interval of progress messages to the channel during a run, such as 10m. "
        "Empty: none.",
        json_schema_extra={"default": ""},
    )

    @property
    def callbacks(self) -> dict[str, str]:
        """Return the callback URL of each field; "" if it is not set."""
        return {name: getattr(self, name) for name in CALLBACK_FIELDS.values()}

    def recipients(self) -> list[Words]:
        """Return each recipient with its events, without the queries of URLs."""
        if self.silent:
            return [("no recipient for now",)]
        found = list[Words]()
        if self.channel:
            to = f"{self.channel} {self.chat_id}".strip()
            found.append(("the channel ", to, f" ({', '.join(self.events)})"))
        for field, url in self.callbacks.items():
            events = [each for each in self.events if CALLBACK_FIELDS[each] == field]
            if url:
                found.append(("", url.partition("?")[0], f" ({', '.join(events)})"))
        return found

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with raising_pydantic_error():
            if len(set(self.events)) < len(self.events):
                raise InvalidInput("events", "contains a duplicate", "name each event once")
            if self.chat_id and not self.channel:
                raise InvalidInput("chat_id", "needs a channel", "set the channel too")
            if self.attach_files and not self.channel:
                hint = "set the channel too: one that sends mail"
                raise InvalidInput("attach_files", "needs a channel", hint)
            for field, url in self.callbacks.items():
                if url and not any(CALLBACK_FIELDS[event] == field for event in self.events):
                    needed = [event for event in EVENTS if CALLBACK_FIELDS[event] == field]
                    hint = f"add {' or '.join(needed)} to the events"
                    raise InvalidInput(field, "none of the events calls it", hint)
        return self
