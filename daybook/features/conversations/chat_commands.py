"""The commands of a chat, such as `/today`: each returns its answer in Markdown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from daybook import api, diagnosis
from daybook.errors import InvalidInput
from daybook.features.conversations import words
from daybook.features.conversations.people import Role
from daybook.jobs.views import ChangedJob, ListedJob
from daybook.schedules.zones import local_text

MAX_LISTED = 30
MAX_COLONS = 6
"""Number of colons of a description, the last of which may end its schedule."""
DUE_TIMES = 5


async def answer(word: str, argument: str, request_id: str, role: Role) -> str:
    """Return the answer of a command. Raise `InvalidInput`, and the errors of the operations.

    A repeated call with the same ``request_id`` starts nothing twice.
    """
    known: dict[str, Callable[[], Awaitable[str]]] = {
        "today": _today,
        "next": _next,
        "jobs": _jobs,
        "run": lambda: _run(argument, request_id),
        "pause": lambda: _pause(argument),
        "resume": lambda: _resume(argument),
        "new": lambda: _new(argument),
    }
    if word not in known:
        return _help(role, "" if word in ("help", "start") else word)
    return await known[word]()


def _help(role: Role, unknown: str) -> str:
    lines = [
        f"- /{word} {does}" if does.split(":")[0].isupper() else f"- /{word}: {does}"
        for word, does in words.COMMANDS.items()
        if role is Role.OPERATOR or word in words.READER_COMMANDS
    ]
    first = f"There is no command /{unknown}.\n\n" if unknown else ""
    reply = "Reply to a message to continue its conversation."
    if role is Role.OPERATOR:
        reply += " A message that replies to none goes to the conversation of this chat."
    return f"{first}{reply}\n\n" + "\n".join(lines)


async def _today() -> str:
    found = await diagnosis.today.today()
    ended = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.ended.items())
    lines = [f"**In the last 24 hours**: {ended or 'no run has ended'}."]
    if found.problems:
        lines += ["", "**Needs you**", *(f"- {each.message}" for each in found.problems)]
    if found.due_soon:
        lines += ["", "**Next**", *await _due_lines()]
    return "\n".join(lines)


async def _next() -> str:
    return "\n".join(await _due_lines()) or "Nothing is due."


async def _due_lines() -> list[str]:
    jobs = [each for each in await api.jobs.list_jobs() if each.next_due]
    jobs.sort(key=lambda each: each.next_due[0])
    return [f"- {due_text(each)}: {each.name}" for each in jobs[:MAX_LISTED]]


def due_text(job: ListedJob) -> str:
    return local_text(job.next_due[0], job.schedule.timezone)


async def _jobs() -> str:
    jobs = await api.jobs.list_jobs()
    if not jobs:
        return "There are no jobs. Add one: /new every weekday at 9: PROMPT"
    lines = []
    for each in jobs[:MAX_LISTED]:
        state = "" if each.enabled else " (paused)"
        last = f", last {each.last_status.replace('_', ' ')}" if each.last_status else ""
        lines.append(f"- **{each.name}**{state}: {each.words}{last}")
    if len(jobs) > MAX_LISTED:
        lines.append(f"- and {len(jobs) - MAX_LISTED:,} more")
    return "\n".join(lines)


def _named(argument: str, word: str) -> str:
    if not argument:
        raise InvalidInput("job", "is missing", f"write /{word} and the job's name")
    return argument


async def _run(argument: str, request_id: str) -> str:
    run = await api.runs.run(_named(argument, "run"), request_id=request_id)
    return f"{run.job} runs now."


async def _pause(argument: str) -> str:
    job = await api.jobs.pause(_named(argument, "pause"))
    return f"{job.name} is paused. To resume it: /resume {job.name}"


async def _resume(argument: str) -> str:
    job = await api.jobs.resume(_named(argument, "resume"))
    due = f" It is due next at {due_text(job)}." if job.next_due else ""
    return f"{job.name} is resumed.{due}"


# --- new jobs


@dataclass(frozen=True)
class NewJob:
    """The job that a person describes: `every weekday at 9: Summarize my inbox`."""

    schedule: str
    prompt: str

    @classmethod
    def of(cls, argument: str) -> NewJob:
        """Read the text after `/new`. Raise `InvalidInput`.

        A time such as `9:30` has a colon too, so the schedule is the longest beginning before a
        colon that is a schedule.
        """
        ends = [at for at, each in enumerate(argument) if each == ":"][:MAX_COLONS]
        refused: InvalidInput | None = None
        for at in reversed(ends):
            schedule, prompt = argument[:at].strip(), argument[at + 1 :].strip()
            if not schedule or not prompt:
                continue
            try:
                api.due.of_schedule(schedule=schedule, count=1)
            except InvalidInput as error:
                refused = error
            else:
                return cls(schedule, prompt)
        if refused is not None:
            raise refused
        hint = "write it such as: /new every weekday at 9: Summarize my inbox"
        raise InvalidInput("job", "needs a schedule, a colon and a prompt", hint)

    def preview(self) -> str:
        """Return what was understood, with the next due times."""
        found = api.due.of_schedule(schedule=self.schedule, count=DUE_TIMES)
        zone = found.schedule.timezone
        times = [f"- {local_text(each.utc, zone)}" for each in found.due]
        quoted = "\n".join(f"> {line}" for line in self.prompt.splitlines())
        return f"**{found.words}**, this prompt:\n\n{quoted}\n\nDue:\n" + "\n".join(times)

    async def add(self, channel: str, chat_id: str, key: str) -> ChangedJob:
        """Add the job, whose answers go to the chat. A repeated call with ``key`` adds no other."""
        return await api.jobs.add(
            {
                "schedule": self.schedule,
                "prompt": self.prompt,
                "channel": channel,
                "chat_id": chat_id,
                "idempotency_key": key,
            }
        )


async def _new(argument: str) -> str:
    return NewJob.of(argument).preview()
