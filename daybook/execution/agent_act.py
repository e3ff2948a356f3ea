"""Act of a run that asks its agents: an `agent-prompt` run, or a heartbeat with its orders."""

from __future__ import annotations

from daybook.execution import conversation, workspaces
from daybook.execution.agent_request import success_outcome
from daybook.execution.agent_tools import OwnTools
from daybook.execution.attempt import Act
from daybook.execution.fallback import PreparedAgents, prepare_agents
from daybook.execution.workspaces import WorkQuestion
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.model import read_parameters
from daybook.ledger.states import Outcome
from daybook.runs.claim_requests import Granted


async def prepare_act(granted: Granted, own: OwnTools) -> Act:
    """Prepare the request of an agent prompt; nothing is sent yet.

    ``own`` returns Daybook's own tools. Raise the errors of `conversation.filled_prompt`,
    `workspaces.of` and `prepare_agents`.
    """
    action, _, _ = read_parameters("agent-prompt", granted.parameters)
    assert isinstance(action, AgentPrompt)
    prompt = conversation.filled_prompt(granted)
    workspace = workspaces.of(granted)
    agents = await prepare_agents(
        granted,
        (action.agent, *action.fallback_agents),
        prompt,
        model=action.model,
        own=own,
        workspace=workspace,
    )

    async def ask(asked: PreparedAgents) -> Outcome:
        answer = await asked.ask(action.output_format, action.output_schema)
        return success_outcome(answer, prompt)

    async def ask_in_workspace(question: WorkQuestion) -> Outcome:
        return await ask(agents.for_question(question))

    async def act() -> Outcome:
        return await (workspace.work(ask_in_workspace) if workspace else ask(agents))

    return act
