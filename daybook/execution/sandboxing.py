"""The sandbox of a run's programs, from the job's policy and the operator's settings.

A job whose programs cannot have their sandbox does not run them without one.
"""

from __future__ import annotations

from pathlib import Path

from daybook import settings
from daybook.agents.program_sandbox import ProgramSandbox
from daybook.execution import workspaces
from daybook.home import current_home
from daybook.http.guard import Guard, Rule
from daybook.jobs import limits
from daybook.owners import is_agent
from daybook.policies import sandboxes
from daybook.policies.policy import Policy
from daybook.runs.claim_requests import Granted

CACHES = "caches"
"""Folder of the home with the caches of jobs."""


def of_run(granted: Granted) -> ProgramSandbox | None:
    """Return the sandbox of a run's programs; None if they run without one.

    Raise `SandboxUnavailable` if this machine cannot build it, and `InvalidInput` for invalid
    settings.
    """
    job = granted.job
    owner = job.row.owner if job else ""
    if level_of(granted.policy, owner) == "off":
        return None
    workspace = workspaces.of(granted)
    readable = workspace.readable if workspace else ()
    return build(granted.policy, owner, job.id if job else "", readable)


def build(
    policy: Policy, owner: str, job_id: str, readable: tuple[str, ...] = ()
) -> ProgramSandbox | None:
    """Return the sandbox for programs of a job. Raise the errors of `of_run`.

    A program chooses what it requests, so its hosts have the rule of an agent for any owner.
    """
    level = level_of(policy, owner)
    if level == "off":
        return None
    from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable  # slow to import
    from daybook.processes.sandboxes.sandbox import why_unavailable

    if why := why_unavailable():
        raise SandboxUnavailable(why)
    guard = Guard.from_settings(Rule.AGENT, limits.load_limits(owner))
    cache = str(cache_folder(job_id, level))
    return ProgramSandbox(level, guard, policy.sandbox_hosts, readable, cache=cache)


def level_of(policy: Policy, owner: str) -> str:
    """Return the level of a job's sandbox: its own, or the operator's.

    The job of an agent has at least the operator's. Raise `InvalidInput` for invalid settings.
    """
    usual = settings.load().sandbox
    chosen = policy.sandbox or usual
    return sandboxes.stronger(chosen, usual) if is_agent(owner) else chosen


def cache_folder(job_id: str, level: str) -> Path:
    """Return the folder for the caches of a job's programs; "" is for runs without a job.

    A program without a sandbox may run what it finds there, so each ``level`` has its own.
    """
    return current_home().path / CACHES / (job_id or "none") / level
