"""Prompt of a run with its variables filled in, and the session's history before it.

The prompt is sent exactly as a person or a job wrote it, also if it starts with a slash.
"""

from __future__ import annotations

from dataclasses import dataclass

from daybook import settings
from daybook.agents.base import Message
from daybook.errors import InvalidInput
from daybook.jobs import prompts
from daybook.runs.claim_requests import Granted
from daybook.schedules.schedule import zone


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: the prompt, and the messages before it, oldest first."""

    prompt: str
    history: tuple[Message, ...]


def turn(granted: Granted) -> Turn:
    """Return the turn that the claim gave this run.

    Raise `InvalidInput` if the prompt consisted of variables only and all of them are empty.
    """
    prompt = render_prompt(granted, str(granted.parameters["prompt"]))
    if not prompt.strip():
        raise InvalidInput("prompt", "is blank after its variables are filled in")
    history = (
        Message("assistant" if each.role == "assistant" else "user", each.content)
        for each in granted.history
    )
    return Turn(prompt, tuple(history))


def render_prompt(granted: Granted, prompt: str) -> str:
    """Return ``prompt`` with this run's variables filled in."""
    return prompts.render(prompt, _values(granted))


def _values(granted: Granted) -> dict[str, str]:
    """Return the variables. The due time is in the job's time zone, with its offset."""
    job = granted.job
    timezone = job.job.schedule.timezone if job else settings.load().timezone
    return {
        "due": granted.due.astimezone(zone(timezone)).isoformat(timespec="seconds"),
        "job": job.row.name if job else "",
        "last_output": granted.last_output,
    }
