"""Act of a run that asks its agents: an `agent-prompt` run, or a heartbeat with its orders."""

from __future__ import annotations

from daybook.execution import conversation
from daybook.execution.agent_request import success_outcome
from daybook.execution.agent_tools import OwnTools
from daybook.execution.attempt import Act
from daybook.execution.fallback import prepare_agents
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.model import read_parameters
from daybook.ledger.states import Outcome
from daybook.runs.claim_requests import Granted


async def prepare_act(granted: Granted, own: OwnTools) -> Act:
    """Prepare the request of an agent prompt; nothing is sent yet.

    ``own`` returns Daybook's own tools. Raise the errors of `conversation.filled_prompt` and of
    `prepare_agents`.
    """
    action, _, _ = read_parameters("agent-prompt", granted.parameters)
    assert isinstance(action, AgentPrompt)
    prompt = conversation.filled_prompt(granted)
    agents = await prepare_agents(
        granted, (action.agent, *action.fallback_agents), prompt, model=action.model, own=own
    )

    async def ask() -> Outcome:
        answer = await agents.ask(action.output_format, action.output_schema)
        return success_outcome(answer, prompt)

    return ask
