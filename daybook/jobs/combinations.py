"""Checks of a job's fields that have to fit each other."""

from __future__ import annotations

from daybook.errors import InvalidInput
from daybook.jobs import action_fields, prompts
from daybook.jobs.actions import Action, AgentPrompt
from daybook.jobs.notify import Notify
from daybook.policies.policy import ANSWER, Policy, matches
from daybook.policies.repositories import NEED_REPO, Upstream
from daybook.policies.work_pools import MAX_VARIABLES_LENGTH


def check(action: Action, policy: Policy, notify: Notify) -> None:
    """Raise `InvalidInput` if a field does not fit the others.

    So a prompt cannot use a variable that the job does not set, and the session `chat` needs a
    channel.
    """
    if getattr(action, "session", "") == "chat" and not notify.channel:
        raise InvalidInput("session", "chat needs a channel", "set the channel too")
    asks, tested = action.agents(), policy.check
    if (call := action.own_call()) is not None:
        for entry in policy.approve:
            if entry == ANSWER or not matches(call[0], entry):
                problem = f'"{entry}" does not name the call of this job'
                raise InvalidInput("approve", problem, f"use {call[0]}, or leave it out")
    if policy.only_tools and not asks:
        problem = "applies only to the tools of an agent, and this job asks none"
        raise InvalidInput("only_tools", problem, "leave it out")
    if policy.work_dir and not (asks or tested.prompt or tested.command or tested.watch_command):
        problem = "applies only to agents and to the commands of checks, and this job has neither"
        raise InvalidInput("work_dir", problem, "leave it out")
    _check_repository(action, policy)
    action_fields.check_json(policy.job_variables, "job_variables", MAX_VARIABLES_LENGTH)
    if policy.sandbox_hosts and policy.sandbox in ("off", "strict"):
        problem = f"cannot be combined with sandbox {policy.sandbox}"
        raise InvalidInput("sandbox_hosts", problem, "leave it out, or use sandbox workspace")
    for field, text in {"prompt": getattr(action, "prompt", ""), "check": tested.prompt}.items():
        if prompts.uses_variable(text, "work_dir") and not policy.work_dir:
            hint = "set work_dir, or remove the variable"
            raise InvalidInput(field, "uses {{work_dir}}, but the job has none", hint)
    if not isinstance(action, AgentPrompt):
        return
    if prompts.uses_variable(action.prompt, "change") and not tested.is_watch:
        hint = "set watch_url or watch_command, or remove {{change}}"
        raise InvalidInput("prompt", "uses {{change}}, but the job watches nothing", hint)
    if prompts.uses_variable(action.prompt, "check") and not tested:
        hint = "set a check, or remove {{check}}"
        raise InvalidInput("prompt", "uses {{check}}, but the job has no check", hint)


def _check_repository(action: Action, policy: Policy) -> None:
    """Raise `InvalidInput` if the fields about a repository do not fit the others."""
    if not policy.repo:
        usual = Policy()
        if names := [each for each in NEED_REPO if getattr(policy, each) != getattr(usual, each)]:
            hint = f"set repo too, or clear {' and '.join(names)}"
            raise InvalidInput(names[0], "applies only to a job with a repository", hint)
        return
    if not isinstance(action, AgentPrompt):
        raise InvalidInput("repo", "applies only to agent prompts", "leave it out")
    if policy.work_dir:
        raise InvalidInput("repo", "cannot be combined with work_dir", "leave one of them out")
    source = Upstream.parse(policy.repo)
    is_proposed = policy.land == "pull-request"
    if policy.repo_secret and source.protocol != "https" and not is_proposed:
        hint = "leave it out; git uses its own credentials"
        raise InvalidInput("repo_secret", "is only for a repository at https://…", hint)
    if is_proposed and not policy.repo_secret:
        hint = "save a token with `daybook secrets add`, and name it"
        raise InvalidInput("repo_secret", "is needed for pull requests", hint)
    for name in ("forge", "one_pull_request"):
        if getattr(policy, name) and not is_proposed:
            raise InvalidInput(name, "applies only to land pull-request", "leave it out")
    if policy.land != "review" and ANSWER in policy.approve:
        hint = "use land review, whose change a person decides about"
        raise InvalidInput("land", f"{policy.land} does not wait for the approval of answer", hint)
    if policy.land == "auto" and not policy.verify:
        hint = "set verify, such as `make test`, or use land review"
        raise InvalidInput("land", "auto needs a verification", hint)
