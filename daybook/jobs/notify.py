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

A skipped run is no event. An event that is not among a job's `events` is not sent anywhere, except
for alerts: if the job's channel does not get them, they go to the operator's channel.
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
from daybook.jobs.actions import MAX_URL_LENGTH, is_readable
from daybook.schedules.durations import Progress
from daybook.validation import raising_pydantic_error

Event = Literal["completed", "failed", "cancelled", "missed"]
EVENTS: tuple[Event, ...] = get_args(Event)

ON_FAIL_EVENTS = frozenset({"failed", "cancelled", "missed"})
"""Events that call `on_fail`."""

VARIABLES = ("job", "status", "due", "output", "error", "reason", "run")
"""Variables of a template, such as `{{output}}`."""

SILENT_ANSWER = "[SILENT]"
"""An answer with only this text is not sent; neither is an empty one."""

MAX_NAME_LENGTH = 200
"""Characters of a channel's name, and of a chat id."""

Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_NAME_LENGTH)]


def _url(url: str) -> str:
    if url and not (re.match(r"https?://", url, re.IGNORECASE) and is_readable(url)):
        raise InvalidInput(
            "url", "is no web address", "write one such as https://ops.example.org/hook"
        )
    if len(url) > MAX_URL_LENGTH or "{{" in url:
        raise InvalidInput(
            "url", "is no address of a callback", f"plain, at most {MAX_URL_LENGTH:,} long"
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
    """Where a job's answers, failures and other ends are told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[Event, ...] = Field(
        default=("completed", "failed"),
        title="Events",
        description="Which ends of a run are told: completed, failed (also what timed out, and "
        "what is unknown), cancelled, missed.",
    )
    channel: Name = Field(
        default="",
        title="Channel",
        description="Where answers and alerts go: inbox, file, console, or the name of a "
        "notification block of Prefect. Empty: answers go nowhere.",
    )
    chat_id: Name = Field(
        default="",
        title="Chat id",
        description="Which conversation of the channel, where it has several; of file the file's "
        "name.",
    )
    on_complete: Annotated[str, _callback("on_complete")] = Field(
        default="",
        title="On complete",
        description="An address that gets the run as JSON when it has succeeded.",
    )
    on_fail: Annotated[str, _callback("on_fail")] = Field(
        default="",
        title="On fail",
        description="An address that gets the run as JSON when it has failed; and when it was "
        "cancelled or missed, where these are among the events.",
    )
    template: Annotated[str, AfterValidator(_template)] = Field(
        default="",
        title="Template",
        description="The words of a message: {{job}}, {{status}}, {{due}}, {{output}}, {{error}}, "
        "{{reason}}, {{run}}. Empty: the answer, or what went wrong.",
    )
    only_changed: bool = Field(
        default=False,
        title="Only changed",
        description="An answer that is the same as the last one is not sent to the channel.",
    )
    silent: bool = Field(
        default=False,
        title="Silent",
        description="Nothing is sent for now, whatever else stands here; alerts go to the "
        "operator.",
    )
    progress: Progress = Field(
        default=None,
        title="Progress",
        description="While a run is at work, a note goes to the channel every so often, such as "
        "10m. Empty: none.",
        json_schema_extra={"default": ""},
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with raising_pydantic_error():
            if len(set(self.events)) < len(self.events):
                raise InvalidInput("events", "one is there twice", f"legal: {', '.join(EVENTS)}")
            if self.chat_id and not self.channel:
                raise InvalidInput("chat_id", "there is no channel", "name the channel as well")
            if self.on_complete and "completed" not in self.events:
                raise InvalidInput("on_complete", "completed is not among the events", "add it")
            if self.on_fail and ON_FAIL_EVENTS.isdisjoint(self.events):
                legal = f"add one of {', '.join(e for e in EVENTS if e in ON_FAIL_EVENTS)}"
                raise InvalidInput("on_fail", "none of its events is among the events", legal)
        return self


FIELDS = tuple(Notify.model_fields)
"""Names of the fields, in texts and in JSON."""
