"""Child process of a run with a real server: our flows, user flows, and hooks."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling, Crashed

from daybook.home import Home
from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest
from daybook.worker.run_process import RunProcess
from tests.contract.worker.conftest import wait_until
from tests.contract.worker.programs import ADAPTERS
from tests.servers import NOWHERE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module", params=ADAPTERS)
async def launcher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_server: object
) -> AsyncIterator[Launcher]:
    async with ADAPTERS[request.param](tmp_path_factory.mktemp("output")) as launcher:
        yield launcher


@dataclass
class Theirs:
    """User flow in its own folder."""

    launcher: Launcher
    client: PrefectClient
    folder: Path

    def writes(self, source: str, name: str = "work.py") -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)

    async def run(self, state: State[Any] | None = None) -> FlowRun:
        return await self.client.create_flow_run(Flow(_nothing, name="work"), state=state)

    async def start(
        self,
        run: FlowRun,
        mode: str = "engine",
        variables: dict[str, str] | None = None,
        **how: Any,
    ) -> RunProcess:
        entrypoint = {"PREFECT__FLOW_ENTRYPOINT": f"{self.folder / 'work.py'}:work"}
        given: dict[str, Any] = {
            "environment": {**os.environ, **entrypoint, **(variables or {})},
            "folder": str(self.folder),
            **how,
        }
        return await self.launcher.start(LaunchRequest(run.model_dump(mode="json"), mode, **given))  # type: ignore[arg-type]

    async def ends_as(self, run: FlowRun) -> str:
        return await state_of(self.client, run.id)


async def state_of(client: PrefectClient, run: UUID) -> str:
    state = (await client.read_flow_run(run)).state
    assert state is not None
    return state.type.value


def _nothing() -> None: ...


@pytest.fixture
async def theirs(launcher: Launcher, tmp_path: Path) -> AsyncIterator[Theirs]:
    async with get_client() as client:
        yield Theirs(launcher, client, tmp_path)


async def test_a_user_flow_imports_its_own_modules(theirs: Theirs) -> None:
    """This includes modules with the names of our entry points, which the parent has loaded."""
    theirs.writes("", "flows/__init__.py")
    theirs.writes("WORD = 'theirs'", "flows/agent_prompt.py")
    theirs.writes(
        """
import os, sys
from prefect import flow
from flows.agent_prompt import WORD

@flow(log_prints=True)
def work():
    print(WORD, os.getcwd(), sys.path[0])
"""
    )
    run = await theirs.run()
    began = await theirs.start(run)
    assert await began.ended() == 0
    expected = f"theirs {theirs.folder} {theirs.folder}"
    assert expected in began.output.read_text()
    assert await theirs.ends_as(run) == "COMPLETED"
    # The process sent the last of its logs before it exited.
    about = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    messages = [log.message for log in await theirs.client.read_logs(about)]
    assert expected in messages
    assert messages[-1].startswith("Finished in state Completed")


async def test_a_failing_user_flow_is_failed_in_prefect(theirs: Theirs) -> None:
    theirs.writes(
        """
from prefect import flow

@flow
async def work():
    raise LookupError("what was it?")
"""
    )
    run = await theirs.run()
    began = await theirs.start(run)
    await began.ended()
    assert "LookupError: what was it?" in began.output.read_text()
    assert await theirs.ends_as(run) == "FAILED"


async def test_an_ended_user_flow_is_crashed_in_prefect(theirs: Theirs) -> None:
    theirs.writes(
        """
import asyncio
from prefect import flow

@flow
async def work():
    print("ready", flush=True)
    await asyncio.Event().wait()
"""
    )
    run = await theirs.run()
    began = await theirs.start(run)
    await wait_until(lambda: "ready" in began.output.read_text(), within=60)
    await began.end(grace=20.0)
    # Prefect's engine reports the end to the server and then exits with 0.
    assert await began.ended() in {0, -signal.SIGTERM}
    assert await theirs.ends_as(run) == "CRASHED"


async def test_a_child_uses_the_prefect_settings_of_its_task(
    launcher: Launcher, theirs: Theirs
) -> None:
    """The parent imported Prefect with other settings."""
    theirs.writes(
        """
from prefect import flow
from prefect.settings import get_current_settings

@flow
async def work():
    print(get_current_settings().api.url, get_current_settings().cloud.ui_url)
"""
    )
    run = await theirs.run()
    began = await theirs.start(run, variables={"PREFECT_API_URL": NOWHERE})
    assert await began.ended() == 1
    run = await theirs.run()
    began = await theirs.start(run, variables={"PREFECT_CLOUD_UI_URL": "http://ui.invalid"})
    assert await began.ended() == 0
    assert f"{os.environ['PREFECT_API_URL']} http://ui.invalid" in began.output.read_text()


async def test_interpreter_variables_of_the_task_apply_to_the_child(theirs: Theirs) -> None:
    theirs.writes("WORD = 'found'", "elsewhere/remote.py")
    theirs.writes(
        """
import sys
from prefect import flow
from remote import WORD

@flow
async def work():
    print(WORD, sys.flags.utf8_mode)
"""
    )
    path = os.pathsep.join([str(theirs.folder / "elsewhere"), os.environ["PYTHONPATH"]])
    run = await theirs.run()
    began = await theirs.start(run, variables={"PYTHONPATH": path, "PYTHONUTF8": "1"})
    assert await began.ended() == 0
    assert "found 1" in began.output.read_text()


async def test_a_custom_command_replaces_the_engine(theirs: Theirs) -> None:
    theirs.writes(
        """
from prefect import flow

@flow
async def work():
    print("worked")
"""
    )
    run = await theirs.run()
    began = await theirs.start(run, command=f"'{sys.executable}' -m prefect.engine")
    assert await began.ended() == 0
    assert "worked" in began.output.read_text()
    assert await theirs.ends_as(run) == "COMPLETED"


async def test_a_missing_command_exits_with_127(theirs: Theirs) -> None:
    began = await theirs.start(await theirs.run(), command="no-such-program --at all")
    assert await began.ended() == 127
    assert began.output.read_text().startswith("no-such-program --at all: ")


HOOKED = """
from prefect import flow

def fails(flow, flow_run, state):
    raise LookupError("in the hook")

def plain(flow, flow_run, state):
    print("plain", flow.name, flow_run.id, state.type.value)

async def asynchronous(flow, flow_run, state):
    print("asynchronous", flow.name, flow_run.id, state.type.value)

@flow(on_crashed=[{hooks}], on_cancellation=[{hooks}])
async def work():
    raise AssertionError("it is not entered")
"""


@pytest.mark.parametrize(
    ("hook", "state"), [("crashed", Crashed()), ("cancelled", Cancelling())], ids=str
)
async def test_hooks_are_called_in_order(theirs: Theirs, hook: str, state: State[Any]) -> None:
    theirs.writes(HOOKED.format(hooks="plain, asynchronous"))
    run = await theirs.run(state)
    began = await theirs.start(run, "hooks", hook=hook)
    assert await began.ended() == 0
    printed = [line.split() for line in began.output.read_text().splitlines()]
    called = [words for words in printed if words[0] in {"plain", "asynchronous"}]
    about = ["work", str(run.id), state.type.value]
    assert called == [["plain", *about], ["asynchronous", *about]]


async def test_a_failing_hook_does_not_stop_the_next_one(theirs: Theirs) -> None:
    theirs.writes(HOOKED.format(hooks="fails, plain"))
    began = await theirs.start(await theirs.run(Crashed()), "hooks", hook="crashed")
    assert await began.ended() == 1
    text = began.output.read_text()
    assert text.index("in the hook") < text.index("plain work")


async def test_hooks_fail_if_the_flow_cannot_be_loaded(theirs: Theirs) -> None:
    theirs.writes("raise ImportError('not any more')")
    began = await theirs.start(await theirs.run(Crashed()), "hooks", hook="crashed")
    assert await began.ended() == 1
    assert "not any more" in began.output.read_text()


async def test_our_flow_runs_without_a_handover(launcher: Launcher, daybook_home: Home) -> None:
    """Without a handover from the worker, the flow claims its run itself."""
    from flows.agent_prompt import agent_prompt

    async with get_client() as client:
        run = await client.create_flow_run(agent_prompt, parameters={"prompt": "What is on today?"})
        task = LaunchRequest(
            run.model_dump(mode="json"), "ours", "agent-prompt", environment=dict(os.environ)
        )
        began = await launcher.start(task)
        assert await began.ended() == 0, began.output.read_text()
        assert await state_of(client, run.id) == "COMPLETED"


async def test_concurrent_children_each_execute_their_own_run(theirs: Theirs) -> None:
    theirs.writes(
        """
from prefect import flow
from prefect.runtime import flow_run

@flow
async def work():
    print("I am", flow_run.id)
"""
    )
    runs = [await theirs.run() for _ in range(3)]
    started = await asyncio.gather(*(theirs.start(run) for run in runs))
    for run, began in zip(runs, started, strict=True):
        assert await began.ended() == 0
        assert f"I am {run.id}" in began.output.read_text()
        assert await theirs.ends_as(run) == "COMPLETED"
