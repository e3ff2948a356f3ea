"""Process that makes one attempt of a run in a forked child for each line on standard input.

Arguments: the ledger's address, the address of the model provider, the file of the tool's effects.
A line is JSON: ``{"run": name, "point": point, "at": n}``. The child claims the run's occurrence,
and kills itself at the n-th ``finish`` or ``start`` of a step, or ``effect`` of the tool, or never.
With ``"job"``, the id of a job, it is a run of this job whose agent has the tools `memory` and
`notify` instead. With ``"project"``, the folder of a project, the agent gets its instructions, and
each effect changes them. The answer on standard output is how the child ended: `0`, or the number
of the signal.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from daybook.agents import model_steps, model_tools
from daybook.agents.base import Tool
from daybook.agents.journal import PlannedStep, StepReply
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.clock import SYSTEM_CLOCK
from daybook.execution import attempt, builtin_tools, journal
from daybook.execution.agent_request import PreparedRequest, success_outcome
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.builtin_tools import ToolContext
from daybook.execution.fallback import PreparedAgents
from daybook.execution.handover import Handover
from daybook.http.secrets import SecretStore
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.states import Outcome
from daybook.owners import Actor
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from tests.providers import KEY
from tests.unit.agents.asking import request

PRELOADED = (model_steps, model_tools)
NOTIFY = {"channel": "inbox"}
POLICY = {"on_lost": "rerun", "retries": 10, "retry_delay": "1s"}


def claim_request(run: str, job: str | None = None) -> ClaimRequest:
    return ClaimRequest(
        claim_requests.flow_key(run),
        "agent-prompt",
        "direct",
        SYSTEM_CLOCK.now(),
        "here:1",
        {"prompt": "Send five mails.", "policy": POLICY, **({"notify": NOTIFY} if job else {})},
        job_id=job,
    )


def change_project(folder: str, text: str) -> None:
    Path(folder, "AGENTS.md").write_text(text)


class Killer:
    """Kills this process at the n-th event of one kind."""

    def __init__(self, point: str, at: int) -> None:
        self._point, self._left = point, at

    def event(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def watch(killer: Killer) -> None:
    """Let the journal's writes be events."""
    started, finished = journal.RunJournal.start, journal.RunJournal.finish

    async def start(self: journal.RunJournal, step: PlannedStep) -> StepReply | None:
        reply = await started(self, step)
        if reply is None:
            killer.event("start")
        return reply

    async def finish(self: journal.RunJournal, step: PlannedStep, reply: StepReply) -> None:
        await finished(self, step, reply)
        killer.event("finish")

    journal.RunJournal.start = start  # type: ignore[method-assign]
    journal.RunJournal.finish = finish  # type: ignore[method-assign]


async def features_tools(granted: Granted, killer: Killer) -> dict[str, Tool]:
    """Return the tools `memory` and `notify`; the end of each call is an ``effect``."""
    context = ToolContext(granted, "brief", secrets=cast("SecretStore", None))
    tools = {**await builtin_tools.find("memory", context)}
    tools |= await builtin_tools.find("notify", context)
    return {name: _watched(tool, killer) for name, tool in tools.items()}


def _watched(tool: Tool, killer: Killer) -> Tool:
    async def call(arguments: dict[str, Any]) -> str:
        answer = await tool.call(arguments)
        killer.event("effect")
        return answer

    return replace(tool, call=call)


async def run(address: str, provider: str, effects: str, given: dict[str, Any]) -> None:
    killer = Killer(given["point"], given["at"])
    watch(killer)

    file = os.open(effects, os.O_WRONLY | os.O_APPEND)

    async def call(arguments: dict[str, Any]) -> str:
        os.write(file, f"{arguments['text']}\n".encode())
        if "project" in given:
            change_project(given["project"], arguments["text"])
        killer.event("effect")
        return f"sent {arguments['text']}"

    tool = Tool("mail", "Sends a mail.", {"type": "object"}, call)
    settings = {"model": "openai:gpt-6-luna", "base_url": provider, "api_key": KEY}
    agent = ModelAgent("brief", ModelSettings.model_validate(settings))
    selection = ToolSelection("brief", own=(tool,))

    async def act() -> Outcome:
        prepared = PreparedRequest(agent, asked, selection, Actor(), given.get("project", ""))
        return success_outcome(await PreparedAgents({"brief": prepared}).ask(), "Hello")

    async with Ledger(address) as ledger:
        granted = await claims.claim(ledger, claim_request(given["run"], given.get("job")))
        assert isinstance(granted, Granted), granted
        asked = replace(request(timeout=240.0), occurrence=granted.occurrence)
        if "job" in given:
            selection = ToolSelection("brief", builtin=await features_tools(granted, killer))
        number = await claims.begin(ledger, granted.run_id, granted.fence)
        there = Handover(
            "", granted.run_id, granted.fence, "here:1", os.open(os.devnull, os.O_WRONLY)
        )
        with sharing(ledger):
            await attempt.run_attempt(ledger, granted, number, act, SYSTEM_CLOCK, given=there)


def main() -> None:
    address, provider, effects = sys.argv[1:]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(run(address, provider, effects, json.loads(line)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status) * -1, flush=True)


if __name__ == "__main__":
    main()
