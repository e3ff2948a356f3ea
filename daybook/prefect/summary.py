"""Summary of a job, the first paragraph of its deployment's description in Prefect's UI.

It is a function of the job alone: if it depended on settings, processes with different settings
would overwrite each other's summaries. Texts from users and agents are in code spans, so that the
UI shows no images or HTML of theirs. The queries of URLs are left out, because they may contain a
token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from daybook import names
from daybook.jobs.actions import DEFAULT_POLICIES, Heartbeat, ToolCall, Webhook
from daybook.jobs.model import Job
from daybook.jobs.notify import CALLBACK_FIELDS
from daybook.jobs.policy import Policy
from daybook.schedules.descriptions import describe

_STARTS = ("- Asks the agent ", "- Calls ", "- Policy: ", "- Notifies: ")
"""Starts of the lines after the first."""

MAX_PROMPT_CHARACTERS = 300
"""Maximum length of the beginning of a prompt."""


def summary(job: Job) -> str:
    """Return the job's name and schedule, action, policy and recipients in Markdown.

    The first line has the form that `without_summary` expects, and each other one of `_STARTS`.
    """
    lines = [f"**{job.name}** — {describe(job.schedule)}", _action(job)]
    if policy := ", ".join(_policy(job)):
        lines.append(f"Policy: {policy}")
    if recipients := ", ".join(_recipients(job)):
        lines.append(f"Notifies: {recipients}")
    return "\n- ".join(lines)  # a list needs no blank line before it


def without_summary(description: str) -> str:
    """Return a deployment's description without the summary, as a user may have edited both.

    A line below the summary that is not one of its own is the user's, even without a blank line.
    """
    first, *rest = description.split("\n")
    if not (first.startswith("**") and "** — " in first):
        return description.strip()
    while rest and rest[0].startswith(_STARTS):
        del rest[0]
    return "\n".join(rest).strip()


def _action(job: Job) -> str:
    match job.action:
        case Webhook(method=method, url=url):
            return f"Calls {_code(f'{method} {_without_query(url)}')}"
        case ToolCall(tool=tool):
            return f"Calls the tool {_code(_without_query(tool))}"
        case Heartbeat(agent=agent, file=file):
            return f"Asks the agent {_code(agent)} to follow the orders in {_code(file)}"
        case asked:
            prompt = " ".join(asked.prompt.split())
            shown = names.truncate(prompt, MAX_PROMPT_CHARACTERS)
            more = "" if shown == prompt else " …"
            return f"Asks the agent {_code(asked.agent)}: {_code(shown)}{more}"


def _policy(job: Job) -> Iterator[str]:
    """Yield the fields that differ from the default of the job's kind."""
    defaults = Policy.model_validate(DEFAULT_POLICIES[job.kind]).model_dump(mode="json")
    for name, value in job.policy.model_dump(mode="json").items():
        if value == defaults[name]:
            continue
        yield "with a check" if name == "check" else f"{name.replace('_', ' ')} {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value) or "none"


def _recipients(job: Job) -> Iterator[str]:
    notify = job.notify
    if notify.silent:
        yield "nobody for now"
        return
    if notify.channel:
        to = f"{notify.channel} {notify.chat_id}".strip()
        yield f"the channel {_code(to)} ({', '.join(notify.events)})"
    for field in dict.fromkeys(CALLBACK_FIELDS.values()):
        if url := getattr(notify, field):
            events = [each for each in notify.events if CALLBACK_FIELDS[each] == field]
            yield f"{_code(_without_query(url))} ({', '.join(events)})"


def _code(text: str) -> str:
    """Return ``text``, which has no line break, as a code span that it cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{marks}{space}{text}{space}{marks}"


def _without_query(url: str) -> str:
    return url.partition("?")[0]
