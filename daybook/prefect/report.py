"""What a sync did, told by the names of the jobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass
class Report:
    """What a sync did, by the names of the jobs; ``writes`` is what Prefect was sent.

    ``remade`` are not in this Prefect, which is another one, or were resumed after their deployment
    was deleted; they are among ``created`` as well. ``deleted`` are off since their deployment is
    gone. ``adopted`` were made in Prefect. ``refused`` are edits made in Prefect that no job can
    take over, ``foreign`` what Prefect holds and keeps for itself, ``failed`` the jobs that Prefect
    does not take, or that cannot be compared, each in words.

    ``observed`` are the ids of the jobs of which all is in the ledger that was edited in Prefect
    before the sync began; ``left`` is how many were not looked at for want of time.
    """

    created: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    observed: set[str] = field(default_factory=set)
    left: int = 0

    @property
    def writes(self) -> int:
        """How many deployments were written or deleted."""
        return len(self.created) + len(self.updated) + len(self.removed)

    def conflict(self, name: str, losing: dict[str, Any]) -> None:
        """Both sides changed these fields; ``losing`` are Prefect's values."""
        self.conflicts[name] = losing
        words = f"changed on both sides, the ledger's version is kept: {', '.join(losing)}"
        log.warning("%s: %s", name, words, extra={"action": "sync_conflict"})

    def is_remade(self, name: str) -> None:
        """This is another Prefect, or it was resumed after a deletion; it is made again."""
        self.remade.append(name)
        words = "is not in this Prefect, and is made again"
        log.warning("%s: %s", name, words, extra={"action": "sync_remade"})

    def was_deleted(self, name: str, why: str) -> None:
        """Its deployment is gone; it is off."""
        self.deleted.append(name)
        log.warning("%s: %s; it is off", name, why, extra={"action": "deployment_gone"})

    def adopt(self, name: str, deployment: str) -> None:
        """A deployment that somebody made in Prefect is a job now."""
        self.adopted.append(name)
        log.info("%s: taken over from %s", name, deployment, extra={"action": "adopted"})

    def refuse(self, name: str, words: str) -> None:
        """An edit made in Prefect is not taken over."""
        self.refused[name] = f"{self.refused[name]}; {words}" if name in self.refused else words
        log.warning("%s: not taken over: %s", name, words, extra={"action": "edit_refused"})

    def keep_foreign(self, name: str, words: str) -> None:
        """Something of Prefect's own was left alone."""
        self.foreign[name] = words
        log.info("%s: stays Prefect's own: %s", name, words, extra={"action": "sync_foreign"})

    def fail(self, name: str, words: str) -> None:
        """Prefect did not take the job, or it cannot be compared."""
        self.failed[name] = words
        log.warning(
            "%s: not brought into agreement: %s", name, words, extra={"action": "sync_failed"}
        )
