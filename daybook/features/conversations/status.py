"""The state of the accounts in `daybook status` and `/health`."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.diagnosis.attention import AttentionFacts
from daybook.diagnosis.feature_status import FeatureStatus
from daybook.features.conversations import store
from daybook.features.conversations.operations import AccountState
from daybook.finding import Finding, problem


class ConversationStatus(FeatureStatus, frozen=True):
    """The accounts that listen, with their problems."""

    accounts: list[AccountState]

    @classmethod
    async def read(cls, session: AsyncSession, now: datetime) -> Self:
        return cls(accounts=[AccountState.of(each) for each in await store.accounts(session)])

    def findings(self) -> list[Finding]:
        return [
            problem(
                "conversations",
                f"the channel {each.channel} hears nothing",
                f"check it: daybook channels test {each.channel}",
                why=each.problem,
            )
            for each in self.accounts
            if each.problem
        ]

    def line(self) -> str:
        return ", ".join(f"{each.channel} ({each.identity})" for each in self.accounts)


async def needs(facts: AttentionFacts) -> list[Finding]:
    """Return the problems of the accounts, for the page Today."""
    return (await ConversationStatus.read(facts.session, facts.now)).findings()
