"""What a heartbeat asks: its gate, and then its agent (requirement 42).

::

    the orders are missing or blank ──► closed, and nobody is asked
    the job's check, if it has one ───► closed
    the gate's agent ─────────────────► closed, or open: its agent is asked to do what is to be done
"""

from __future__ import annotations

from prefect.client.orchestration import get_client

from daybook.errors import InvalidInput
from daybook.execution import agent_lookup, checks, conversation, standing_orders
from daybook.execution.checks import Verdict
from daybook.jobs.actions import Heartbeat
from daybook.jobs.model import read_parameters
from daybook.runs.claim_requests import Granted

ASKED = ("agent", "model", "session", "session_key", "policy", "notify")
"""What the asking of its agent has in common with an agent prompt."""

_GATE = """\
It is {{due}}. An agent has the standing orders below. It is woken only when something in them is \
to be done now.

"""

_PROMPT = """\
It is {{due}}. Look after your standing orders below: do what is to be done now, and say in a few \
words what is worth telling. Where nothing is, answer with [SILENT] alone.

"""


def prompt(file: str) -> str:
    """What the agent is asked, with variables. Raises `InvalidInput` where there are no orders."""
    try:
        text = standing_orders.read(file)
    except FileNotFoundError:
        text = ""
    if not text:  # it was there when the gate was asked
        raise InvalidInput("file", f"{standing_orders.place(file)} says nothing any more")
    return _PROMPT + text


async def gate(granted: Granted) -> Verdict:
    """Whether there is anything to do; nobody is asked where there are no orders."""
    return await checks.named("heartbeat", lambda: _gate(granted))


async def _gate(granted: Granted) -> Verdict:
    action, _, _ = read_parameters("heartbeat", granted.parameters)
    assert isinstance(action, Heartbeat)
    try:
        text = standing_orders.read(action.file)
    except FileNotFoundError:
        return Verdict(opens=False, reason=f"{action.file} is missing")
    if not text:
        return Verdict(opens=False, reason=f"{action.file} is blank")
    before = await checks.of_job(granted)
    if not before.opens:
        return before
    async with get_client() as client:
        agent = await agent_lookup.agent(client, action.gate_agent or action.agent)
    asked = conversation.rendered(granted, _GATE + text)
    return await checks.ask_agent(agent, asked, before.charged(granted), before.usage)
