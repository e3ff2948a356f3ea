"""Heartbeat of an agent: first the checks, then the agent.

::

    the standing orders are missing or blank ──► skip, without asking
    the job's check, if it has one ────────────► skip
    the agent of the check ────────────────────► skip, or run: the agent is asked to do the work
"""

from __future__ import annotations

from prefect.client.orchestration import get_client

from daybook.errors import InvalidInput
from daybook.execution import agent_lookup, checks, conversation, standing_orders
from daybook.execution.checks import Verdict
from daybook.jobs.actions import Heartbeat
from daybook.jobs.model import read_parameters
from daybook.runs.claim_requests import Granted

SHARED_PARAMETERS = ("agent", "model", "session", "session_key", "policy", "notify")
"""Parameters of a heartbeat that it shares with an agent prompt."""

_CHECK_PROMPT = """\
It is {{due}}. An agent has the standing orders below. It is woken only when something in them is \
to be done now.

"""

_PROMPT = """\
It is {{due}}. Look after your standing orders below: do what is to be done now, and say in a few \
words what is worth telling. Where nothing is, answer with [SILENT] alone.

"""


def prompt(file: str) -> str:
    """Return the agent's prompt, with variables. Raise `InvalidInput` if there are no orders."""
    try:
        text = standing_orders.read(file)
    except FileNotFoundError:
        text = ""
    if not text:  # the check found orders, which are gone now
        raise InvalidInput("file", f"{standing_orders.path_of(file)} says nothing any more")
    return _PROMPT + text


async def check(granted: Granted) -> Verdict:
    """Decide whether there is anything to do; without standing orders, no agent is asked."""
    return await checks.run_check("heartbeat", lambda: _check(granted))


async def _check(granted: Granted) -> Verdict:
    action, _, _ = read_parameters("heartbeat", granted.parameters)
    assert isinstance(action, Heartbeat)
    try:
        text = standing_orders.read(action.file)
    except FileNotFoundError:
        return Verdict(opens=False, reason=f"{action.file} is missing")
    if not text:
        return Verdict(opens=False, reason=f"{action.file} is blank")
    job_verdict = await checks.check_job(granted)
    if not job_verdict.opens:
        return job_verdict
    async with get_client() as client:
        agent = await agent_lookup.find_agent(client, action.gate_agent or action.agent)
    question = conversation.render_prompt(granted, _CHECK_PROMPT + text)
    return await checks.ask_agent(agent, question, job_verdict.charged(granted), job_verdict.usage)
