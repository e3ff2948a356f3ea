"""Reader of jobs files (`docs/design.md`, "A jobs file")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daybook.errors import InvalidInput


def read(path: Path) -> list[dict[str, Any]]:
    """Return the jobs of a file, each as the flat fields of `daybook.jobs.model.new_job`.

    Raise `InvalidInput` if the file is not a jobs file; `new_job` checks the fields.
    """
    import yaml

    legal = "a mapping with `jobs`, a list of jobs"
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InvalidInput(str(path), f"is no YAML: {error}", legal) from error
    if not isinstance(content, dict) or not isinstance(content.get("jobs"), list):
        raise InvalidInput(str(path), "is no jobs file", legal)
    return [_flat(path, job) for job in content["jobs"]]


def _flat(path: Path, job: object) -> dict[str, Any]:
    if not isinstance(job, dict):
        raise InvalidInput(str(path), f"{job!r} is no job", "a mapping with a schedule")
    schedule = job.get("schedule")
    if not isinstance(schedule, dict):
        return dict(job)
    return {name: value for name, value in job.items() if name != "schedule"} | schedule
