"""Agents with several steps in the chaos test: a model and a tool, served and counted outside.

Such an agent asks a model `CALLS` + 1 times, and calls a tool in between. Each request and each
call carries its occurrence. The tool is not idempotent, so a call is never made twice, whatever is
killed; a request is made again only if its reply was not recorded.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daybook.ledger.tables import RunRow, StepRow

CALLS = 3
MAX_STEP_SECONDS = 0.4
"""Longest duration of a step, so that a kill can hit the middle of one."""
MODEL = "gpt-4o-mini"


@dataclass
class CountedSteps:
    """Number of requests and of calls by their keys: `<occurrence>.<n>`, `<occurrence>/<mark>`."""

    requests: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def occurrences(self) -> Counter[str]:
        """Return each occurrence that asked the model, once."""
        return Counter({_request_of(key)[0] for key in self.requests})

    async def answer(self, request: Request, key: str, draw: random.Random) -> Response:
        """Answer a request to the model: with the next call, or after the last one with a text."""
        self.requests[key] += 1
        messages = (await request.json())["messages"]
        await asyncio.sleep(draw.uniform(0, MAX_STEP_SECONDS))
        made = sum(each["role"] == "tool" for each in messages)
        return JSONResponse(_completion(made))


def settings(address: str) -> dict[str, Any]:
    """Return the settings of the agent, whose model is at ``address``."""
    return {
        "model": f"openai:{MODEL}",
        "base_url": f"{address}/v1",
        "api_key": "not-checked",
        "tools": ["counter.note"],
    }


def violations(counted: CountedSteps, runs: Sequence[RunRow], made: Sequence[StepRow]) -> list[str]:
    """Compare what was counted with the steps in the ledger; return what is wrong."""
    by_key = {run.occurrence: run for run in runs}
    by_run = defaultdict[str, list[StepRow]](list)
    for each in made:
        by_run[each.run_id].append(each)
    wrong = [f"a call was made {n} times: {key}" for key, n in counted.calls.items() if n > 1]
    calls = Counter(key.partition("/")[0] for key in counted.calls.elements())
    for occurrence, count in calls.items():
        rows = _steps(by_key, by_run, occurrence)
        recorded = sum(each.kind == "tool" for each in rows)
        if count > recorded:
            wrong.append(f"{count} calls, of which {recorded} are recorded: {occurrence}")
    for key, count in counted.requests.items():
        occurrence, number = _request_of(key)
        rows = _steps(by_key, by_run, occurrence)
        at = [each for each in rows if each.position == str(number)]
        if count > len(at):
            wrong.append(f"{count} requests, of which {len(at)} are recorded: {key}")
        if sum(each.status == "succeeded" for each in at) > 1:
            wrong.append(f"a finished request was made again: {key}")
    for run in runs:
        positions = {each.position for each in by_run[run.id]}
        if positions and run.status == "succeeded" and len(positions) != 2 * CALLS + 1:
            wrong.append(f"succeeded after the steps {sorted(positions)}: {run.occurrence}")
    return wrong


def _steps(
    by_key: dict[str, RunRow], by_run: dict[str, list[StepRow]], occurrence: str
) -> list[StepRow]:
    run = by_key.get(occurrence)
    return [] if run is None else by_run[run.id]


def _request_of(key: str) -> tuple[str, int]:
    """Return the occurrence of a request, and its number."""
    occurrence, _, number = key.rpartition(".")
    return (occurrence, int(number)) if number.isdigit() and occurrence else (key, 1)


def _completion(made: int) -> dict[str, Any]:
    """Return an answer in the protocol of OpenAI, after so many calls."""
    message: dict[str, Any] = {"role": "assistant", "content": f"{made} notes."}
    if made < CALLS:
        called = {"name": "counter_note", "arguments": json.dumps({"number": made + 1})}
        message["tool_calls"] = [{"id": f"call_{made}", "type": "function", "function": called}]
    finish = "tool_calls" if made < CALLS else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
