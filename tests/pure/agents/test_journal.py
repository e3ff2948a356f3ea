"""Positions and digests of steps."""

from __future__ import annotations

from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

from daybook.agents.base import AgentRequest
from daybook.agents.journal import PlannedStep, ProgramSession, StepPosition, StepReply
from daybook.agents.model_steps import Steps


class NoJournal:
    async def is_limited(self) -> bool:
        return False

    async def limits_usd(self) -> bool:
        raise AssertionError

    async def start(self, step: PlannedStep) -> StepReply | None:
        raise AssertionError

    async def program_session(self, session: ProgramSession, *, resumed: bool) -> None:
        raise AssertionError

    async def acting_agent(self) -> int | None:
        raise AssertionError

    async def finish(self, step: PlannedStep, reply: StepReply) -> None:
        raise AssertionError

    async def show(self, step: PlannedStep, text: str) -> None:
        raise AssertionError

    async def report(self, step: PlannedStep, reply: StepReply | None = None) -> None:
        raise AssertionError


def calling(*ids: str) -> ModelResponse:
    calls = [ToolCallPart("mail", {}, tool_call_id=each) for each in ids]
    return ModelResponse([TextPart("Well."), *calls])


def test_positions_of_calls_are_those_in_the_response_in_whatever_order_they_are_made() -> None:
    steps = Steps(NoJournal(), AgentRequest("Hi", 1, "o", question=2, fallback=1))
    assert str(steps.next_request()) == "~1.#2.1"
    steps.answered(calling("a", "b", "c"))
    assert [steps.next_call(each).call for each in ("c", "a", "b")] == [3, 1, 2]
    assert str(steps.next_request()) == "~1.#2.2"
    steps.answered(calling("same", "same"))
    assert [str(steps.next_call("same")) for _ in range(2)] == ["~1.#2.2.1", "~1.#2.2.2"]


def test_positions_are_in_the_order_of_the_work() -> None:
    order = [(0, 1, 1, 0), (0, 1, 1, 1), (0, 1, 2, 0), (0, 1, 10, 0), (0, 2, 1, 0), (1, 1, 1, 0)]
    positions = [StepPosition(*each) for each in order]
    assert sorted(positions, reverse=True) == positions[::-1]
    assert [StepPosition.parse(str(each)) for each in positions] == positions
