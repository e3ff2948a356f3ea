"""Process that makes one attempt of a run with the tools `files` and `shell`, as `killed_steps`.

Arguments: the ledger's address, the address of the model provider, the work directory, the file of
the effects. The child kills itself at the n-th ``start`` or ``finish`` of a step, before a
``rename``, or after it (``renamed``), or never. Each rename in a work directory is an effect.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from daybook.agents import model_steps, model_tools
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.clock import SYSTEM_CLOCK
from daybook.execution import attempt
from daybook.execution.agent_request import PreparedRequest, success_outcome
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.builtin_tools import ToolContext, find
from daybook.execution.fallback import PreparedAgents
from daybook.execution.handover import Handover
from daybook.http.secrets import SecretStore
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.states import Outcome
from daybook.owners import Actor
from daybook.runs import claims
from daybook.runs.claim_requests import Granted
from tests.providers import KEY
from tests.unit.agents.asking import request
from tests.unit.execution.killed_steps import Killer, claim_request, watch
from tests.unit.features.work_tools.conftest import tools

PRELOADED = (model_steps, model_tools)


def watch_renames(killer: Killer, effects: str) -> None:
    renamed, file = os.rename, os.open(effects, os.O_WRONLY | os.O_APPEND)

    def rename(source: Any, target: Any, **folders: Any) -> None:
        if not folders:
            renamed(source, target)
            return
        killer.event("rename")
        renamed(source, target, **folders)
        os.write(file, f"rename {target}\n".encode())
        killer.event("renamed")

    os.rename = rename  # type: ignore[assignment]


async def run(address: str, provider: str, work: str, effects: str, given: dict[str, Any]) -> None:
    killer = Killer(given["point"], given["at"])
    watch(killer)
    watch_renames(killer, effects)
    settings = {"model": "openai:gpt-6-luna", "base_url": provider, "api_key": KEY}
    agent = ModelAgent("brief", ModelSettings.model_validate(settings))

    async with Ledger(address, busy=timedelta(seconds=5)) as ledger:
        with sharing(ledger):
            granted = await claims.claim(ledger, claim_request(given["run"]))
            assert isinstance(granted, Granted), granted
            context = ToolContext(granted, "brief", work, secrets=cast("SecretStore", None))
            builtin = await find("files", context) | await find("shell", context)
            selection = ToolSelection("brief", builtin=builtin)
            prepared = PreparedRequest(agent, request(timeout=240.0), selection, Actor())

            async def act() -> Outcome:
                return success_outcome(await PreparedAgents({"brief": prepared}).ask(), "Hello")

            number = await claims.begin(ledger, granted.run_id, granted.fence)
            there = Handover(
                "", granted.run_id, granted.fence, "here:1", os.open(os.devnull, os.O_WRONLY)
            )
            await attempt.run_attempt(ledger, granted, number, act, SYSTEM_CLOCK, given=there)


def main() -> None:
    address, provider, work, effects = sys.argv[1:]
    # Import here what each child needs.
    asyncio.run(tools("files", Path(work)))
    asyncio.run(tools("shell", Path(work)))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(run(address, provider, work, effects, json.loads(line)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status) * -1, flush=True)


if __name__ == "__main__":
    main()
