"""Authorship of a job's targets: which owner last wrote the URLs and tools that its runs reach.

The rules for a target depend on its author, because a model may edit the operator's job through
MCP, and the operator may edit a model's job. A part is a field that names a target. If a part has
no entry, the job's creator wrote it. One more entry, `ENABLED`, has the author of the enabled flag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from daybook import markers, owners
from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import Job
from daybook.policies.checks import Check

ENABLED = "enabled"
"""Entry of the author who last enabled or disabled the job, or gave the reason why it is disabled.

It is the writer of an actor, `prefect`, or `daybook`, which disables jobs by its rules.
"""
ACTION_PARTS = tuple(
    dict.fromkeys(
        name for each in ACTIONS.values() for name in markers.marked(each.model_fields, "is_target")
    )
)
CHECK_PARTS = tuple(f"check.{name}" for name in markers.marked(Check.model_fields, "is_target"))


def target_parts(job: Job) -> dict[str, object]:
    """Return the parts of a job that name its targets; absent parts are None or empty."""
    check = job.policy.check
    return {
        **{name: getattr(job.action, name, None) for name in ACTION_PARTS},
        **{part: getattr(check, part.removeprefix("check.")) for part in CHECK_PARTS},
        **job.notify.callbacks,
    }


def update_authors(before: Job, after: Job, by: Mapping[str, str], writer: str) -> dict[str, str]:
    """Return the authors of the parts, ``by`` before, after ``writer`` changed the job.

    Once any part has changed, an empty part has the author "". Any other unchanged part that is not
    in ``by`` stays absent.
    """
    old, new = target_parts(before), target_parts(after)
    if old == new:
        return dict(by)
    empty = {name: "" for name, value in new.items() if not value}
    return {**by, **{name: writer for name in new if new[name] != old[name]}, **empty}


def author_of(by: Mapping[str, str], created_by: str, parts: Iterable[str]) -> str:
    """Return the author of these parts, or ""; of several authors, a model takes precedence."""
    wrote = [by.get(name, created_by) for name in parts]
    models = filter(owners.is_model, wrote)
    return next(models, None) or next(filter(None, wrote), "")
