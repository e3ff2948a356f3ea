"""Request of a run to its agent, with the prompt and the tools.

::

    prepare_request ──► PreparedRequest         between claim and begin, without an effect
                          └─ ask ──► open the tools ─► ask (`answers`) ─► close the tools

The attempt's timeout and token limit cover all of `ask`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from prefect.client.orchestration import get_client

from daybook.agents.base import Agent, AgentRequest, ChatMessage, ProgramFolder
from daybook.agents.pictures import MAX_REQUEST_BYTES, Picture
from daybook.agents.program_sandbox import ProgramSandbox
from daybook.errors import AgentMisconfigured, AgentTimeout
from daybook.execution import (
    agent_lookup,
    agent_tools,
    answers,
    conversation,
    handover,
    journal,
    mcp_config,
    program_folders,
    project_instructions,
    sandboxing,
)
from daybook.execution.agent_tools import OwnTools, ToolSelection
from daybook.execution.answers import AgentAnswer
from daybook.execution.builtin_tools import ToolContext
from daybook.execution.journal import RunJournal
from daybook.execution.mcp_config import McpConfiguration
from daybook.execution.workspaces import Workspace
from daybook.jobs import limits
from daybook.jobs.actions import OutputFormat
from daybook.ledger.states import Outcome, Status, Usage
from daybook.owners import AGENT_PREFIX, Actor, is_agent
from daybook.policies.policy import Policy, tools_of
from daybook.processes import locations
from daybook.runs.claim_requests import Granted
from daybook.tools.server_blocks import PrefectServers


@dataclass(frozen=True)
class PreparedRequest:
    """An agent, the request to it, its tools, and the actor that calls Daybook's own tools.

    ``project`` is the folder of the project whose instructions a model gets; "" for none.
    """

    agent: Agent
    request: AgentRequest = field(repr=False)
    selection: ToolSelection = field(repr=False)
    actor: Actor
    project: str = ""

    async def ask(self, form: OutputFormat = "text", schema: Mapping[str, Any] = {}) -> AgentAnswer:
        """Open the tools, call `answers.ask`, and close the tools in any case.

        Raise the errors of `agent_tools.open_tools` and of `answers.ask`.
        """
        timeout, loop = self.request.timeout, asyncio.get_running_loop()
        end = loop.time() + timeout
        tools = agent_tools.open_tools(self.selection, self.request.occurrence, self.actor, timeout)
        async with tools as opened:
            current = journal.current()
            request = replace(self.request, tools=opened, journal=current)
            if current is not None and current.number > 1:
                # The failed attempt may have added to the program's conversation.
                request = replace(request, attempt=current.number, resume=None)
            if self.project:
                request = replace(request, instructions=await self._instructions(current, end))
            if opened or self.project:
                request = replace(request, timeout=max(end - loop.time(), 0.0))
            try:
                return await answers.ask(self.agent, request, form, schema)
            except AgentTimeout as error:
                timed_out = AgentTimeout(timeout, error.output, error.tool)
                timed_out.usage, timed_out.final = error.usage, error.final
                raise timed_out from None

    async def _instructions(self, current: RunJournal | None, end: float) -> str:
        """Return the project's instructions. Raise `AgentTimeout` at ``end``."""
        try:
            async with asyncio.timeout_at(end):
                agent = self.request.fallback
                return await project_instructions.load(self.project, current, agent)
        except TimeoutError:
            raise AgentTimeout(self.request.timeout) from None


async def prepare_request(
    granted: Granted,
    agent: str,
    prompt: str,
    *,
    model: str = "",
    own: OwnTools,
    fallback: int = 0,
    workspace: Workspace | None = None,
) -> PreparedRequest:
    """Look up the agent and the tools that it may call; ``own`` returns Daybook's own tools.

    ``fallback`` is as in `AgentRequest`. The agent works in ``workspace``, or in the job's work
    directory if it is None. Raise `DaybookError`, and the errors of Prefect's client.
    """
    policy = Policy.model_validate(granted.parameters["policy"])
    owner = granted.job.row.owner if granted.job else ""
    approve = tools_of(limits.approvals_of(policy, owner))
    of_owner, only = limits.load_limits(owner), policy.only_tools
    work_dir = workspace.folder if workspace else locations.job_folder(policy.work_dir)
    # A job of an agent may have inherited entries for tools that its own agent does not have. It
    # inherits `only_tools` too.
    of_job = () if is_agent(owner) else tools_of(policy.approve)
    async with get_client() as client:
        found = await agent_lookup.find_agent(client, agent)
        servers = PrefectServers(client)
        selection, configuration = ToolSelection(found.name), McpConfiguration()
        folders: tuple[ProgramFolder, ...] = ()
        sandbox: ProgramSandbox | None = None
        if found.is_program:
            sandbox = sandboxing.of_run(granted)
            _refuse_approvals(found.name, found.tools, of_job, approve)
            _refuse_only_tools(found.name, only)
            await program_folders.check(found.tools, servers)
            folders = await program_folders.find(found.tools)
            configuration = await mcp_config.find(found.tools, servers)
            if sandbox is not None and configuration.own:
                problem = 'the program cannot use "daybook" in a sandbox, which hides Daybook'
                raise AgentMisconfigured(f"sandbox: {problem}; remove it from the agent's tools")
        else:
            context = ToolContext(granted, found.name, work_dir, secrets=servers.secrets)
            selection = await agent_tools.find(found.name, found.tools, servers, own, context)
            # A fallback agent may have fewer tools than the job's own.
            by_field = {"approve": of_job, "only_tools": () if is_agent(owner) else only}
            pairs = [(name, entry) for name, entries in by_field.items() for entry in entries]
            expected = () if fallback else tuple(pairs)
            selection = replace(
                selection,
                only=only,
                approve=approve,
                approve_after_web=of_owner.approve_after_web if of_owner else (),
                expected=expected,
            )
    takes_pictures = found.takes_pictures(model)
    pictures = await conversation.sent_pictures(granted.run_id, prompt)
    if pictures and not takes_pictures:
        _refuse_pictures(found.name, pictures)
        prompt, pictures = f"{prompt}\n\nYou do not get the pictures.", ()
    if pictures and found.is_program:
        folder = program_folders.of_pictures(granted.run_id, pictures)
        folders, pictures = (*folders, folder), ()
        prompt = f"{prompt}\n\n{program_folders.describe(folder)}"
    history: tuple[ChatMessage, ...] = ()
    if granted.session_id:
        history_limits = policy.compression.over(found.compression)
        left = MAX_REQUEST_BYTES - sum(len(each.content) for each in pictures)
        history = await conversation.session_history(
            granted,
            history_limits,
            picture_bytes=left if takes_pictures and not found.is_program else 0,
        )
    actor = actor_of(granted, found.name)
    request = AgentRequest(
        prompt=prompt,
        pictures=pictures,
        history=history,
        model=model,
        timeout=policy.timeout.total_seconds(),
        occurrence=granted.occurrence,
        job=granted.job.row.name if granted.job else None,
        due=granted.due,
        run_id=granted.run_id,
        resume=await conversation.program_session(granted, found.name) if history else None,
        tokens=granted.tokens,
        fallback=fallback,
        repeatable=policy.idempotent,
        took=_report_usage,
        servers=await mcp_config.build(configuration, actor),
        folders=folders,
        work_dir=work_dir,
        sandbox=sandbox,
    )
    has_project = policy.project_instructions and not found.is_program
    return PreparedRequest(found, request, selection, actor, work_dir if has_project else "")


def _refuse_approvals(
    name: str, tools: Sequence[str], of_job: Sequence[str], approve: Sequence[str]
) -> None:
    """Raise `AgentMisconfigured` if a person should approve calls that a program makes itself."""
    of_owner = [
        entry
        for entry in approve
        if any(fnmatchcase(each, entry.partition(".")[0]) for each in tools)
    ]
    if of_job or of_owner:
        raise AgentMisconfigured(
            f"approve: {', '.join(of_job or of_owner)} cannot be approved, because agent "
            f'"{name}" is a program, which calls its tools itself; use a model agent'
        )


def _refuse_pictures(name: str, pictures: Sequence[Picture]) -> None:
    """Raise `AgentMisconfigured` unless all pictures are optional."""
    if not all(each.is_optional for each in pictures):
        raise AgentMisconfigured(
            f'agent "{name}" gets no pictures; if its model takes them, switch them on: '
            f"daybook agents edit {name} --pictures"
        )


def _refuse_only_tools(name: str, only: Sequence[str]) -> None:
    """Raise `AgentMisconfigured` if a job should limit the tools of a program."""
    if only:
        raise AgentMisconfigured(
            f'only_tools: agent "{name}" is a program, which calls its tools itself; use a model '
            "agent, or limit the tools in the program's own settings"
        )


def _report_usage(usage: Usage) -> None:
    """Report the usage so far to the worker, which records it if this process is killed."""
    handover.report(took=usage)


def actor_of(granted: Granted, agent: str) -> Actor:
    """Return the actor that calls Daybook's own tools: an agent that owns the job, or ``agent``."""
    row = granted.job.row if granted.job else None
    owner = row.owner if row is not None and is_agent(row.owner) else f"{AGENT_PREFIX}{agent}"
    user_id = (row.user_id or "") if row is not None else ""
    policy = granted.policy
    level = sandboxing.level_of(policy, row.owner if row is not None else "")
    return Actor(owner, user_id, "run", policy.approve, policy.only_tools, level)


def success_outcome(answer: AgentAnswer, prompt: str) -> Outcome:
    """Return the outcome of a run whose agent answered."""
    reply = answer.reply
    return Outcome(
        Status.SUCCEEDED,
        reason=answer.remark,
        output=reply.text,
        result=reply.result,
        agent=reply.agent,
        model=reply.model,
        usage=reply.usage,
        warnings=reply.warnings,
        prompt=prompt,
    )
