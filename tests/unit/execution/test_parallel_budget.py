"""Fifty runs at once against one day's budget, and a process that is killed among them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentFailed
from daybook.execution import journal
from daybook.home import Home
from daybook.jobs.limits import load_rules
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from tests.providers import Provider, provider
from tests.unit.agents.asking import agent, request
from tests.unit.execution.test_journal import Mail, sends

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

RUNS, BUDGET_USD, REQUEST_USD = 50, 5.0, 0.12
PRICES: dict[str, Any] = {"input_price": 1_000.0, "output_price": 1_000.0}


async def claimed(ledger: Ledger, name: str) -> Granted | Finished:
    given = {"prompt": "Do it", "policy": {"retries": 0}}
    claim_request = ClaimRequest(
        claim_requests.flow_key(name),
        "agent-prompt",
        "direct",
        SYSTEM_CLOCK.now(),
        "here:1",
        given,
        rules=load_rules(),
    )
    answer = await claims.claim(ledger, claim_request)
    assert isinstance(answer, Granted | Finished)
    return answer


async def spend_until_refused(ledger: Ledger, granted: Granted, fake_provider: Provider) -> str:
    """Let one run make requests until its budget ends it; return the error."""
    await claims.begin(ledger, granted.run_id, granted.fence)
    with journal.recording(ledger, granted, 1, SYSTEM_CLOCK):
        asked = request(tools=(Mail().tool,), journal=journal.current(), timeout=600.0)
        try:
            await agent(fake_provider, options={"max_tokens": 30}, **PRICES).answer(asked)
        except AgentFailed as error:
            outcome = Outcome(Status.FAILED, error=str(error), usage=error.usage)
    await claims.finish(ledger, granted.run_id, granted.fence, outcome)
    return str(outcome.error)


async def test_fifty_runs_at_once_spend_at_most_the_budget_and_one_request_each(
    tmp_path: Path, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process is killed in the middle; a later one continues with the same sum."""
    monkeypatch.setenv("DAYBOOK_BUDGET", json.dumps({"usd_per_day": BUDGET_USD}))
    monkeypatch.setattr(journal, "RETRY_DELAY", timedelta(milliseconds=50))
    path = tmp_path / "ledger.db"
    address = f"sqlite+aiosqlite:///{path}"

    def query(statement: str) -> float:
        with closing(sqlite3.connect(path)) as connection:
            return float(connection.execute(statement).fetchone()[0])

    with provider() as fake_provider:
        fake_provider.script = [sends("a")]
        async with Ledger(address, busy=timedelta(minutes=10)) as ledger:
            grants = [await claimed(ledger, f"a{number}") for number in range(RUNS // 2)]
            tasks = [
                asyncio.create_task(spend_until_refused(ledger, each, fake_provider))
                for each in grants
                if isinstance(each, Granted)
            ]
            while len(fake_provider.requests) < 10:
                await asyncio.wait(tasks, timeout=0.05)
            for task in tasks:  # nothing is recorded of them any more
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for granted in grants:  # as the worker does when the process is gone
                if isinstance(granted, Granted):
                    await claims.holder_died(ledger, granted.run_id, granted.fence, "killed")
        before = len(fake_provider.requests)
        counted = query("SELECT sum(usd) FROM steps")
        assert counted >= REQUEST_USD * before - 1e-6
        async with Ledger(address, busy=timedelta(minutes=10)) as ledger:
            grants = [await claimed(ledger, f"b{number}") for number in range(RUNS)]
            errors = await asyncio.gather(
                *(
                    spend_until_refused(ledger, each, fake_provider)
                    for each in grants
                    if isinstance(each, Granted)
                )
            )
        sent = len(fake_provider.requests)
    assert len(errors) == RUNS
    assert {error.partition(":")[0] for error in errors} == {"budget"}
    spent = sent * REQUEST_USD
    print(f"{sent} requests, ${spent:.2f} of ${BUDGET_USD:.2f}, {before} before the end")
    assert spent <= BUDGET_USD + REQUEST_USD * RUNS
    counted = query("SELECT sum(usd) FROM attempts")
    assert max(spent, BUDGET_USD - REQUEST_USD) <= counted + 1e-6
