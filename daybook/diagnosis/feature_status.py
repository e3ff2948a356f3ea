"""The state of a feature in `daybook status` and `/health`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Self, TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.feature import features, leaving_out
from daybook.finding import Finding
from daybook.ledger.engine import Ledger

log = logging.getLogger(__name__)

Report = TypeVar("Report", bound=BaseModel)


class FeatureStatus(BaseModel, ABC, frozen=True):
    """The state of a feature. Its fields are in the JSON of both reports, under the name."""

    @classmethod
    @abstractmethod
    async def read(cls, session: AsyncSession, now: datetime) -> Self:
        """Return the state at ``now``, the ledger's time."""

    def findings(self) -> list[Finding]:
        """Return the problems and warnings for `status`; `check` is the feature's name."""
        return []

    def line(self) -> str:
        """Return one line for `daybook status`; "" for none."""
        return ""


def with_states(report: Report, states: Mapping[str, FeatureStatus | None]) -> Report:
    """Return ``report`` with the states of features as further fields; its own fields stay."""
    fields = type(report).model_fields
    return report.model_copy(
        update={name: each for name, each in states.items() if name not in fields}
    )


async def read_all(ledger: Ledger, now: datetime) -> dict[str, FeatureStatus]:
    """Return the states of all features by name, without features whose state cannot be read."""
    found = dict[str, FeatureStatus]()
    for each in features():
        if each.status:
            try:
                # A session of its own, because a failed query may end the transaction.
                async with ledger.read() as session:
                    found[each.name] = await each.load(each.status).read(session, now)
            except Exception:  # a foreign mistake in SQL looks like an unreachable ledger
                if each.is_own:
                    raise
                log.exception("the status of the feature %s failed", each.name)
    return found


def findings_of(states: Mapping[str, FeatureStatus]) -> list[Finding]:
    """Return the findings of all features, without those of a foreign feature that fails."""
    found = list[Finding]()
    for each in features():
        if each.name in states:
            with leaving_out(each, "findings"):
                found += states[each.name].findings()
    return found


def lines_of(states: Mapping[str, FeatureStatus]) -> list[tuple[str, str]]:
    """Return the names and lines of all features that have a line, in the same way."""
    found = list[tuple[str, str]]()
    for each in features():
        if each.name in states:
            with leaving_out(each, "line"):
                found.append((each.name, states[each.name].line()))
    return [each for each in found if each[1]]
