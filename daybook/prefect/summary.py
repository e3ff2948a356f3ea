"""Summary of a job, the first paragraph of its deployment's description in Prefect's UI.

The summary is a function of the job alone: if it depended on settings, processes with different
settings would overwrite each other's summaries. Texts from users and agents are escaped or in code
spans, so that the UI renders no images or HTML in them. The summary leaves out the queries of URLs,
because they may contain a token.
"""

from __future__ import annotations

import re

from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import Job
from daybook.policies.policy import Policy
from daybook.short_text import prefix

_STARTS = (*(f"- {each.opening}" for each in ACTIONS.values()), "- Policy: ", "- Notifies: ")
"""Starts of the lines after the first line of a summary."""

_MARKUP = re.compile(r"[\\`*<\[]")
"""Characters with which code, emphasis, HTML, links and images begin in Markdown."""

MAX_PROMPT_CHARACTERS = 300
"""Maximum length of the beginning of a prompt, in characters."""


def summary(job: Job) -> str:
    """Return the job's name and schedule, action, policy and recipients in Markdown.

    The first line has the form that `without_summary` expects. Each other line starts with one of
    `_STARTS`.
    """
    first = f"**{_escaped(job.name)}** — {_escaped(job.schedule.describe())}"
    lines = [first, _action(job)]
    if policy := _escaped(", ".join(_policy(job))):
        lines.append(f"Policy: {policy}")
    if recipients := ", ".join(_in_code(*each) for each in job.notify.recipients()):
        lines.append(f"Notifies: {recipients}")
    return "\n- ".join(lines)  # a list needs no blank line before it


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)


def without_summary(description: str) -> str:
    """Return a deployment's description without the summary; a user may have edited both.

    A line that does not start like a line of the summary is the user's, even without a blank line
    before it. So is a first line that only looks like ours: ours always has a line about the action
    below it.
    """
    first, *rest = description.split("\n")
    is_ours = first.startswith("**") and "** — " in first
    if not (is_ours and rest and rest[0].startswith(_STARTS)):
        return description.strip()
    while rest and rest[0].startswith(_STARTS):
        del rest[0]
    return "\n".join(rest).strip()


def _action(job: Job) -> str:
    *words, last = job.action.sentence()
    text = " ".join(last.split())
    shown = prefix(text, MAX_PROMPT_CHARACTERS)
    return _in_code(*words, shown) + ("" if shown == text else " …")


def _policy(job: Job) -> list[str]:
    """Return the fields that differ from the default of the job's kind."""
    usual = Policy.model_validate(job.action.default_policy)
    check = ["with a check"] if job.policy.check else []
    return [*(" ".join(filter(None, each)) for each in job.policy.facts(usual)), *check]


def _in_code(*words: str) -> str:
    """Return ``words`` as one text; every second word is a user's text and becomes a code span."""
    return "".join(_code(each) if index % 2 else each for index, each in enumerate(words))


def _code(text: str) -> str:
    """Return ``text``, which has no line break, as a code span whose marks it cannot contain."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{marks}{space}{text}{space}{marks}"
