"""Incidents: findings about the same trouble of one job, merged for the page Today.

`doctor`, `status` and `/health` report the findings one by one, so that a program can count them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from daybook.diagnosis import findings
from daybook.finding import Finding, FindingAction

MERGED_KINDS = ("unknown", "failing", "missed", "empty", "paused", "inbox")
"""Kinds of findings about a job that are one incident, the most urgent first."""
RECOVERED = "recovered"
"""Kind of the finding about alerts that need no person any more."""


@dataclass(frozen=True)
class Incident:
    """What a person has to look at once: the most urgent finding, and ``others`` of the same job.

    ``others`` are sorted like `MERGED_KINDS`.
    """

    first: Finding
    others: tuple[Finding, ...] = ()

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(each.kind for each in (self.first, *self.others))

    @property
    def remedies(self) -> list[Finding]:
        """Return the findings whose actions help, each action once, but no link to the inbox.

        The link to the inbox counts if there is nothing else.
        """
        by_action: dict[FindingAction, Finding] = {}
        for each in (self.first, *self.others):
            if each.action is not None:
                by_action.setdefault(each.action, each)
        if len(by_action) > 1:
            by_action.pop(FindingAction.READ, None)
        return list(by_action.values())


def merge(found: Iterable[Finding]) -> list[Incident]:
    """Return one incident for each job's findings of `MERGED_KINDS`, and for any other finding.

    An incident stands where the first of its findings stood. Of each kind, only
    `findings.MAX_OF_A_KIND` are returned, with a last one that counts the others.
    """
    groups: dict[object, list[Finding]] = {}
    for number, each in enumerate(found):
        is_merged = each.job_id is not None and each.kind in MERGED_KINDS
        groups.setdefault(each.job_id if is_merged else number, []).append(each)
    others = dict[int, tuple[Finding, ...]]()
    firsts = list[Finding]()
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=lambda each: MERGED_KINDS.index(each.kind))
        firsts.append(group[0])
        others[id(group[0])] = tuple(group[1:])
    return [Incident(each, others.get(id(each), ())) for each in findings.few(firsts)]
