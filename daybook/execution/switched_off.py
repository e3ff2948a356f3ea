"""Runs that are claimed but not executed, because the operator switched execution off.

The setting `execution_off` names the kinds of these runs. Such a run performs neither its check nor
its effect. It ends as skipped, and its log describes the action that was not performed.
"""

from __future__ import annotations

import json
from typing import Any

from prefect.logging import get_run_logger

from daybook.errors import DaybookError, InvalidInput
from daybook.execution import conversation
from daybook.execution.checks import NO_CHECK, Verdict
from daybook.jobs import limits
from daybook.jobs.actions import Action, AgentPrompt
from daybook.jobs.model import read_parameters
from daybook.policies.checks import Check
from daybook.runs.claim_requests import Granted
from daybook.short_text import prefix

REASON = "execution is switched off"

MAX_LOGGED_CHARACTERS = 8_000
"""Maximum length of the description of a run in its log, in characters."""


def verdict(kind: str, granted: Granted) -> Verdict:
    """Return whether the run may be executed; if not, log a description of its action.

    Raise `InvalidInput` for invalid settings. Raise `DaybookError` for a run that has had an
    attempt: such a run has to fail, because a skipped run never had an effect.
    """
    if kind not in limits.load_rules().execution_off:
        return NO_CHECK
    get_run_logger().info("%s", describe(kind, granted), extra={"action": "not_executed"})
    if granted.attempts:
        raise DaybookError(REASON)
    return Verdict(opens=False, reason=REASON)


def describe(kind: str, granted: Granted) -> str:
    """Return a description of the run for its log: its action's fields, and its check, as JSON.

    Fill in the variables of a prompt. Leave out queries of URLs, because they may contain tokens.
    """
    action, policy, _ = read_parameters(kind, granted.parameters)
    fields = _given(action)
    if isinstance(action, AgentPrompt):
        try:
            fields["prompt"] = conversation.filled_prompt(granted)
        except InvalidInput as error:
            fields["error"] = str(error)
    if policy.check:
        fields["check"] = _given(policy.check)
    if policy.work_dir:
        fields["work_dir"] = policy.work_dir
    text = json.dumps({"kind": kind, **fields}, indent=2, ensure_ascii=False)
    shown = prefix(text, MAX_LOGGED_CHARACTERS)
    return f"Execution is switched off, so nothing was done. The run would have done:\n{shown}"


def _given(model: Action | Check) -> dict[str, Any]:
    """Return the fields of ``model`` that have a value, without the queries of URLs."""
    fields = model.model_dump(mode="json")
    for name, url in model.urls():
        fields[name] = url.partition("?")[0]
    return {name: value for name, value in fields.items() if value}
