"""What a run asks, and what was said before it: the prompt with its variables, and the history.

A message is what a person or a job wrote and nothing else: what begins with a slash is sent as it
is (requirement 27).
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
    """One turn of a conversation: what is asked now, and the messages before it, oldest first."""

    prompt: str
    history: tuple[Message, ...]


def turn(granted: Granted) -> Turn:
    """The turn that the claim gave this run.

    Raises `InvalidInput` when nothing but variables stood in the prompt and all of them are empty.
    """
    prompt = rendered(granted, str(granted.parameters["prompt"]))
    if not prompt.strip():
        raise InvalidInput("prompt", "is blank once its variables are filled in")
    history = (
        Message("assistant" if each.role == "assistant" else "user", each.content)
        for each in granted.history
    )
    return Turn(prompt, tuple(history))


def rendered(granted: Granted, prompt: str) -> str:
    """``prompt`` with its variables as they are in this run."""
    return prompts.render(prompt, _values(granted))


def _values(granted: Granted) -> dict[str, str]:
    """The due time is by the clock of the job's zone, with its offset."""
    job = granted.job
    timezone = job.job.schedule.timezone if job else settings.load().timezone
    return {
        "due": granted.due.astimezone(zone(timezone)).isoformat(timespec="seconds"),
        "job": job.row.name if job else "",
        "last_output": granted.last_output,
    }
