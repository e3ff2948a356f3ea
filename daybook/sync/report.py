"""What a sync did, told by the names of the jobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass
class Report:
    """What a sync did, by the names of the jobs; ``writes`` is what Prefect was sent.

    ``remade`` had been deleted in Prefect and are among ``created`` as well. ``refused`` are edits
    made in Prefect that no job can take over, ``foreign`` what Prefect holds and keeps for itself,
    ``failed`` the jobs that Prefect does not take, each in words.
    """

    created: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0

    @property
    def writes(self) -> int:
        """How many deployments were written or deleted."""
        return len(self.created) + len(self.updated) + len(self.removed)

    def conflict(self, name: str, losing: dict[str, Any]) -> None:
        """Both sides changed these fields; ``losing`` are Prefect's values."""
        self.conflicts[name] = losing
        words = f"changed on both sides, the ledger's version is kept: {', '.join(losing)}"
        log.warning("%s: %s", name, words, extra={"action": "sync_conflict"})

    def was_deleted(self, name: str) -> None:
        """Its deployment is gone from Prefect, or this is another Prefect; it is made again."""
        self.remade.append(name)
        words = "is no longer in this Prefect, and is made again"
        log.warning("%s: %s", name, words, extra={"action": "sync_remade"})

    def refuse(self, name: str, words: str) -> None:
        """An edit made in Prefect is not taken over."""
        self.refused[name] = f"{self.refused[name]}; {words}" if name in self.refused else words
        log.warning("%s: not taken over: %s", name, words, extra={"action": "edit_refused"})

    def keep_foreign(self, name: str, words: str) -> None:
        """Something of Prefect's own was left alone."""
        self.foreign[name] = words
        log.info("%s: stays Prefect's own: %s", name, words, extra={"action": "sync_foreign"})

    def fail(self, name: str, words: str) -> None:
        """Prefect did not take the job."""
        self.failed[name] = words
        log.warning(
            "%s: Prefect does not take it: %s", name, words, extra={"action": "sync_failed"}
        )
