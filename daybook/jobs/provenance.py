"""Where what a job says leads its runs and its callbacks, and who wrote that last (requirement 38).

By the rule of whoever wrote an address it is judged: a job of the operator's may be changed through
MCP, and one that was made so by the operator. What has no word here is as the job was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from daybook import owners
from daybook.jobs.model import Job

ACTION = ("url", "tool", "params")
CHECK = ("check.tool", "check.params")


def of(job: Job) -> dict[str, object]:
    """The parts of a job that say where it leads; those that it has not are empty."""
    gate = job.policy.check
    return {
        **{name: getattr(job.action, name, None) for name in ACTION},
        **dict(zip(CHECK, (gate.tool, gate.params), strict=True)),
        **{name: getattr(job.notify, name) for name in ("on_complete", "on_fail")},
    }


def written(before: Job, after: Job, by: Mapping[str, str], writer: str) -> dict[str, str]:
    """Who wrote each part, where ``writer`` makes ``before`` into ``after``.

    What is empty leads nowhere: nobody wrote it, however the job was made.
    """
    had, has = of(before), of(after)
    if had == has:
        return dict(by)
    empty = {name: "" for name, value in has.items() if not value}
    return {**by, **{name: writer for name in has if has[name] != had[name]}, **empty}


def writer(by: Mapping[str, str], created_by: str, parts: Iterable[str]) -> str:
    """Who wrote these parts: an agent, or what models write through, where any of them did."""
    wrote = [by.get(name, created_by) for name in parts]
    models = filter(owners.is_models, wrote)
    return next(models, None) or next(filter(None, wrote), "")
