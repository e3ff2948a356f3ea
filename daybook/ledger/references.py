"""References: the object that a user's word for a job, run, approval or session stands for.

::

    a whole id ──────────────────────────► the object with this id
    a short id (`1a2b3c4d`) ───────────┐
    an approval (`1a2b3c4d.2`) ────────┼─► the only object that matches in any of these ways;
    the name of a job, a title, a key ─┘   `Ambiguous`, which names all of them, if several match

Agents choose the names of their jobs. So a name never hides an id, an object of another kind, or a
job of another owner: a word that could stand for two objects stands for neither. There is one
exception, for the same reason: the name of a live job that no agent owns stands for this job even
if agents have jobs of the same name. Otherwise an agent could make any name ambiguous.

A short id has at least `names.MIN_ID_LENGTH` digits, and no new name has the form of an id
(`names.has_id_form`), so only stored names from older versions can match an id.

A word with the form of a whole id, and an `Id`, which pages and forms pass, is never a name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Select, null, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import feature, owners
from daybook.errors import Ambiguous, NotFound
from daybook.ledger.credential_tables import TokenRow
from daybook.ledger.tables import JobRow, RunRow, SessionRow
from daybook.names import MIN_ID_LENGTH, Id

MAX_MATCHES = 20
"""Maximum number of objects that one query for names or short ids reads."""

COMMAND_ID_LENGTH = 12
"""Number of digits of an id in a command that Daybook suggests."""

_WHOLE_ID = re.compile(r"[0-9a-f]{32}")
_SHORT_ID = re.compile(rf"[0-9a-f]{{{MIN_ID_LENGTH},}}")
_APPROVAL = re.compile(rf"([0-9a-f]{{{MIN_ID_LENGTH},}})\.([0-9]{{1,9}})")


Named = Callable[[str], ColumnElement[bool]]


@dataclass(frozen=True, eq=False)
class Noun:
    """A kind of object that a reference can stand for.

    ``found`` selects the id, name and owner of such objects, and the time of their removal.
    ``named`` returns the condition for the objects with a name.
    """

    word: str
    id: Any
    found: Select[Any]
    named: Named | None = None
    has_hex_id: bool = True


_JOB = (col(JobRow.name), col(JobRow.owner))

JOB = Noun(
    "job",
    col(JobRow.id),
    select(col(JobRow.id), *_JOB, col(JobRow.archived_at)).order_by(
        col(JobRow.archived_at).is_not(None),
        col(JobRow.owner).startswith(owners.AGENT_PREFIX, autoescape=True),
        col(JobRow.archived_at).desc(),
    ),
    lambda ref: col(JobRow.name) == ref,
)
RUN = Noun(
    "run",
    col(RunRow.id),
    select(col(RunRow.id), *_JOB, null()).outerjoin(JobRow, col(JobRow.id) == col(RunRow.job_id)),
)
SESSION = Noun(
    "session",
    col(SessionRow.id),
    select(col(SessionRow.id), null(), null(), null()),
    lambda ref: col(SessionRow.id) == col(SessionRow.agent) + ":" + ref,
    has_hex_id=False,
)
TOKEN = Noun(
    "token",
    col(TokenRow.id),
    select(col(TokenRow.id), col(TokenRow.name), col(TokenRow.owner), null()),
    lambda ref: col(TokenRow.name) == ref,
)

NOUNS = (JOB, RUN, TOKEN)
"""The nouns with ids of hexadecimal digits, without those of features."""


def nouns() -> tuple[Noun, ...]:
    """Return `NOUNS`, and those in the modules `tables` of features."""
    modules = feature.loaded("tables")
    return (*NOUNS, *(each for module in modules for each in getattr(module, "NOUNS", ())))


Scope = Mapping[Noun, ColumnElement[bool]]
"""The kinds of objects that a reference may stand for, each with a condition."""


@dataclass(frozen=True)
class Match:
    """An object that a reference matches. ``number`` is the number of the run's approval."""

    noun: Noun
    id: Id
    name: str | None = None
    owner: str | None = None
    removed_at: datetime | None = None
    number: int | None = None

    @property
    def label(self) -> str:
        """Return the whole id with the kind, name and owner of the object."""
        number = "" if self.number is None else f".{self.number}"
        removed = "removed" if self.removed_at else ""
        facts = [self.name, self.owner and f"of {self.owner}", removed]
        about = ", ".join(filter(None, facts))
        return f"{self.noun.word} {self.id}{number}" + (f" ({about})" if about else "")


class OwnedJob(Protocol):
    """A live job: a row or a summary of it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def owner(self) -> str: ...


def command_word(job: OwnedJob) -> str:
    """Return the word for the job in a command that Daybook suggests to a person: its quoted name.

    It is the short id if the name looks like an option, and for a job of an agent, whose name
    another owner's job may have.
    """
    has_own_name = not owners.is_agent(job.owner) and not job.name.startswith("-")
    return shlex.quote(job.name) if has_own_name else job.id[:COMMAND_ID_LENGTH]


async def resolve(session: AsyncSession, ref: str, scope: Scope) -> Match:
    """Return the only object that ``ref`` stands for; raise `NotFound`, `Ambiguous`."""
    return only(ref, scope, await matches(session, ref, scope))


def only(ref: str, scope: Scope, found: Sequence[Match]) -> Match:
    """Return the only match. Raise `NotFound` if there is none, and `Ambiguous` for several."""
    noun = next(iter(scope)).word
    if len(found) > 1:
        raise Ambiguous(noun, ref, [each.label for each in found])
    if not found:
        raise NotFound(noun, ref)
    return found[0]


async def matches(session: AsyncSession, ref: str, scope: Scope) -> list[Match]:
    """Return all objects that ``ref`` could stand for; a whole id stands for one object."""
    digits, number = ref.lower(), None
    by_id = {noun: scope[noun] for noun in scope}
    if approval := _APPROVAL.fullmatch(digits):
        digits, number = approval[1], int(approval[2])
        by_id = {noun: scope[noun] for noun in scope if noun is RUN}
    for noun, condition in by_id.items():
        exact = noun.id == (digits if noun.has_hex_id else ref)
        if found := await _read(session, noun, condition & exact, number):
            return found
    if isinstance(ref, Id) or _WHOLE_ID.fullmatch(digits) or not ref:
        return []
    found = list[Match]()
    for noun, condition in scope.items():
        if noun.named is not None:
            named = await _read(session, noun, condition & noun.named(ref))
            found += _preferred(named) if noun is JOB else named
    is_short = _SHORT_ID.fullmatch(digits) is not None
    if found and is_short and not owners.current_actor().is_agent:
        # The name may also be the id of an object that is not in the scope.
        others = nouns() if number is None else (RUN,)
        by_id = {noun: true() for noun in others} | by_id
    for noun, condition in by_id.items():
        if is_short or not noun.has_hex_id:
            short = noun.id.startswith(digits if noun.has_hex_id else ref, autoescape=True)
            found += await _read(session, noun, condition & short, number)
    return list({(each.noun, each.id): each for each in found}.values())


async def _read(
    session: AsyncSession, noun: Noun, condition: ColumnElement[bool], number: int | None = None
) -> list[Match]:
    rows = (await session.execute(noun.found.where(condition).limit(MAX_MATCHES))).tuples()
    return [
        Match(noun, Id(each), name, owner, removed, number) for each, name, owner, removed in rows
    ]


def _preferred(named: Iterable[Match]) -> list[Match]:
    """Return the jobs that a name can stand for.

    Of the removed jobs of one owner, only the last one counts. Removed jobs of agents count only if
    there is no other job.
    """
    live, removed = list[Match](), dict[str, Match]()
    for each in named:  # sorted: live ones first, then the last removed ones
        if each.removed_at is None:
            live.append(each)
        else:
            removed.setdefault(_namespace(each), each)
    if own := [each for each in live if not _namespace(each)]:
        return own
    own = [each for space, each in removed.items() if not space]
    return live + own or list(removed.values())


def _namespace(job: Match) -> str:
    """Return the agent that owns the job; all other owners share the namespace ``""``."""
    return owners.agent_id(job.owner or "")
