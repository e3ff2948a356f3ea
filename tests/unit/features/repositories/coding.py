"""Agents that change files in the workspace of a run, without a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from daybook.clock import SYSTEM_CLOCK
from daybook.execution import journal, workspaces
from daybook.execution.workspaces import WorkQuestion
from daybook.ledger.states import Outcome, Status
from daybook.runs.claim_requests import Granted
from tests.world import World

Work = Callable[[Path], object]


@dataclass
class Agent:
    """An agent that does the next of ``works`` in its folder, for each question."""

    world: World
    works: list[Work]
    questions: list[WorkQuestion] = field(default_factory=list)

    async def __call__(self, granted: Granted, attempt: int = 1) -> Outcome:
        """Work in the run's workspace."""
        workspace = workspaces.of(granted)
        assert workspace is not None

        async def ask(question: WorkQuestion) -> Outcome:
            self.questions.append(question)
            self.works[len(self.questions) - 1](Path(workspace.folder))
            used = {"requests": 1, "input_tokens": 10, "output_tokens": 1, "cost_usd": None}
            answer = f"Done {len(self.questions)}."
            return Outcome(Status.SUCCEEDED, output=answer, agent="coder", usage=used)

        with journal.recording(self.world.ledger, granted, attempt, SYSTEM_CLOCK):
            return await workspace.work(ask)


def writes(**files: str) -> Work:
    def work(folder: Path) -> None:
        for name, text in files.items():
            (folder / f"{name}.txt").write_text(text)

    return work


def nothing(folder: Path) -> None:
    pass
