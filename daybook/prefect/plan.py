"""Decision about one job, as a pure function: what a round of its reconciliation does.

::

    its deployment is            then
    ───────────────────────────  ────────────────────────────────────────────────────────────────
    another ledger's by its tag  `Disable`
    missing, and not needed      `Disable`; nothing if the job is recorded as having none
    missing, and needed          `Write`
    present, with edits          `Import`, unless the last round imported just these edits
    present, without edits       `Write`

`daybook.prefect.diff` determines the edits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daybook.jobs.store import StoredJob
from daybook.prefect import links, projection
from daybook.prefect.diff import Difference, compare
from daybook.prefect.import_edits import without_defaults_of_deploy
from daybook.prefect.projection import Projection

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse


@dataclass(frozen=True)
class Sides:
    """A job in the ledger, and its deployment in Prefect; None if there is none.

    If there is none, ``is_needed`` is whether the deployment has to be created.
    """

    stored: StoredJob
    found: DeploymentResponse | None
    is_needed: bool = True


@dataclass(frozen=True)
class Disable:
    """Disable the job for ``reason``, because it has lost its deployment."""

    reason: str


@dataclass(frozen=True)
class Import:
    """Import the edits made in Prefect, and record the values that a conflict will overwrite."""

    found: DeploymentResponse
    difference: Difference


@dataclass(frozen=True)
class Write:
    """Create the deployment or send the fields that differ, and record that both sides agree."""


Plan = Disable | Import | Write


def make_plan(sides: Sides, ledger_id: str, imported: Projection | None = None) -> Plan | None:
    """Return what to do, if anything; ``imported`` is the last imported state of the deployment."""
    stored, found = sides.stored, sides.found
    if found is None:
        if sides.is_needed:
            return Write()
        return None if stored.row.deployment_id is None else Disable(links.DELETED_REASON)
    if projection.belongs_to_other_ledger(found.tags, ledger_id):
        return Disable(links.TAKEN_REASON)
    observed = projection.of_deployment(found)
    if observed == imported:
        return Write()
    ours = projection.of_job(stored, ledger_id)
    # If the ledger has recorded that the job has no deployment, a user created this one: all
    # differences are edits.
    base = stored.row.synced if stored.row.synced != links.NO_DEPLOYMENT else ours.as_dict()
    difference = without_defaults_of_deploy(compare(ours, base, observed), stored, found, ledger_id)
    return Import(found, difference) if difference.pull or difference.conflicts else Write()
