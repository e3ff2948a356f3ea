"""Report of a reconciliation; its methods also log each entry."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from daybook.json_text import JsonObject

log = logging.getLogger(__name__)


@dataclass
class ReconcileReport:
    """Result of a reconciliation, by the names of the jobs.

    - ``remade``: jobs that had no deployment because this is another Prefect, or because they were
      enabled after the deletion of their deployment. Once Daybook has created the deployment, the
      job is in ``created`` as well.
    - ``pulled``: jobs with imported edits.
    - ``deleted``: jobs that were disabled because their deployment was deleted, or belongs to
      another ledger now.
    - ``adopted``: jobs made from deployments that users created in Prefect.
    - ``removed``: archived jobs whose deployment was deleted.
    - ``conflicts``: Prefect's losing values.
    - ``refused``: edits made in Prefect that no job can express.
    - ``foreign``: descriptions of the parts that stay Prefect's own.
    - ``failed``: jobs that Prefect refuses, or that cannot be compared, with the reasons.

    ``observed`` has the ids of the jobs whose edits, made in Prefect before the reconciliation
    started, are all in the ledger. ``left`` counts the jobs for which there was no time.
    """

    created: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: dict[str, JsonObject] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    observed: set[str] = field(default_factory=set)
    left: int = 0

    @property
    def writes(self) -> int:
        """Return the number of deployments that were written or deleted."""
        return len(self.created) + len(self.updated) + len(self.removed)

    def conflict(self, name: str, losing: JsonObject) -> None:
        """Report that both sides changed these fields; ``losing`` has Prefect's values."""
        self.conflicts[name] = losing
        words = f"changed in the ledger and in Prefect; keeping the ledger's {', '.join(losing)}"
        log.warning("%s: %s", name, words, extra={"action": "sync_conflict"})

    def add_remade(self, name: str) -> None:
        """Report that the deployment will be recreated, in another Prefect or after a deletion."""
        self.remade.append(name)
        words = "it has no deployment on this Prefect server; creating one"
        log.warning("%s: %s", name, words, extra={"action": "sync_remade"})

    def add_deleted(self, name: str, why: str) -> None:
        """Report that the job is disabled because it lost its deployment for the reason ``why``."""
        self.deleted.append(name)
        log.warning("%s: %s; the job is disabled", name, why, extra={"action": "deployment_gone"})

    def adopt(self, name: str, deployment: str) -> None:
        """Report that a deployment created in Prefect is a job now."""
        self.adopted.append(name)
        log.info(
            "%s: adopted from the deployment %s", name, deployment, extra={"action": "adopted"}
        )

    def refuse(self, name: str, words: str) -> None:
        """Report that an edit made in Prefect is not imported."""
        self.refused[name] = f"{self.refused[name]}; {words}" if name in self.refused else words
        log.warning(
            "%s: cannot import an edit made in Prefect: %s",
            name,
            words,
            extra={"action": "edit_refused"},
        )

    def add_unmanaged(self, name: str, words: str) -> None:
        """Report a part of the deployment that stays Prefect's own and was left unchanged."""
        self.foreign[name] = words
        log.info("%s: left unchanged in Prefect: %s", name, words, extra={"action": "sync_foreign"})

    def fail(self, name: str, words: str) -> None:
        """Report that Prefect refused the job, or that it cannot be compared."""
        self.failed[name] = words
        log.warning("%s: cannot reconcile: %s", name, words, extra={"action": "sync_failed"})
