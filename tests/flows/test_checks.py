"""The gate before any run: what opens it, what closes it, and what is no answer."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.exceptions import CancelledRun, FailedRun

from daybook.agents import documents
from daybook.execution import execute
from flows.agent_prompt import agent_prompt
from flows.tool_call import tool_call
from flows.webhook import webhook
from tests.providers import KEY, Answer, Provider, Step, limited, provider
from tests.timings import change
from tests.toolbox import install, served
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

# With a policy as JSON says it, and the state as the answer.
call: Any = agent_prompt
work: Any = tool_call
CALLED = 'tried to call the tool "shell" instead of answering; this request offers no tools'
other: Any = webhook

# `gives` is the gate: it answers what it is given. `acts` is the work: it notes that it was done.
SOURCE = """
import json
from pathlib import Path
from typing import Any
from daybook.tools import occurrence

CALLS = Path({calls!r})

def gives(answer: Any) -> Any:
    noted("gives")
    return answer

def breaks() -> bool:
    noted("breaks")
    raise ValueError("it broke")

def acts() -> str:
    noted("acts")
    return "done"

def noted(tool):
    with CALLS.open("a") as calls:
        calls.write(json.dumps([tool, occurrence()]) + "\\n")
"""


class Tools:
    def __init__(self, folder: Path) -> None:
        self._file = folder / "calls"
        source = SOURCE.format(calls=str(self._file))
        install(folder / "site", source, "gives", "breaks", "acts")

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The tools that were called, in order, each with the key that it was given."""
        if not self._file.exists():
            return []
        return [tuple(json.loads(line)) for line in self._file.read_text().splitlines()]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return made


class Asked:
    """Two model agents of one server, the gate's and the job's own, and what each was asked."""

    def __init__(self, here: Provider) -> None:
        self.here, self.gate, self.main = here, f"g-{uuid4().hex[:8]}", f"m-{uuid4().hex[:8]}"

    async def run(self, *script: Step, prompt: str = "Anything new?", **given: Any) -> Any:
        self.here.script = list(script)
        check = {"prompt": prompt, "agent": self.gate}
        policy = {"check": check, "retry_delay": "1s", **given.pop("policy", {})}
        return await call(prompt="Do it", agent=self.main, policy=policy, **given)

    @property
    def models(self) -> list[str]:
        return [seen.body["model"] for seen in self.here.requests]


@pytest.fixture
async def asked(world: World) -> AsyncIterator[Asked]:
    with provider() as here:
        made = Asked(here)
        for name, model in ((made.gate, "fast"), (made.main, "large")):
            settings = {"model": f"openai:{model}", "base_url": here.address, "api_key": KEY}
            await documents.add(world.client, name, "model", settings)
        yield made


# --- a tool


@pytest.mark.parametrize(
    ("answer", "opens", "reason"),
    [
        (True, True, ""),
        (False, False, "check: the tool gives says no"),
        ("true", True, ""),
        (" false\n", False, "check: the tool gives says no"),
        ({"action": "run", "reason": "mail"}, True, ""),
        ({"action": "skip", "reason": "no\nmail"}, False, "check: no mail"),
        ('{"action": "skip"}', False, "check: the tool gives gave no reason"),
    ],
)
@pytest.mark.slow
async def test_a_tools_answer_opens_or_closes(
    world: World, tools: Tools, answer: Any, opens: bool, reason: str
) -> None:
    check = {"tool": "gives", "params": {"answer": answer}}

    result: Any = await work(tool="acts", policy={"check": check})

    row = await world.row()
    expected = ("succeeded", 1) if opens else ("skipped", 0)
    assert (row.status, row.attempts) == expected
    assert (row.reason, result["reason"]) == (reason, reason)
    assert tools.names == ["gives", "acts"] if opens else ["gives"]
    # Another key than the work's: who remembers keys would answer the work with the check's answer.
    assert [key for _, key in tools.calls] == [f"{row.occurrence}#check", row.occurrence][
        : 1 + opens
    ]


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"tool": "gives", "params": {"answer": None}}, "the tool gives answered None; expected"),
        ({"tool": "gives", "params": {"answer": 1}}, "the tool gives answered 1; expected"),
        ({"tool": "gives", "params": {"answer": "perhaps"}}, "answered 'perhaps'; expected"),
        (
            {"tool": "gives", "params": {"answer": {"action": "delete"}}},
            "returned an invalid answer",
        ),
        ({"tool": "breaks"}, "ValueError: it broke"),
    ],
)
async def test_no_answer_of_a_tool_fails_the_run(
    world: World, tools: Tools, check: dict[str, Any], words: str
) -> None:
    with pytest.raises(FailedRun):
        await work(tool="acts", policy={"check": check, "retries": 3})

    row = await world.row()
    assert (row.status, row.attempts) == ("failed", 0)
    assert str(row.error).startswith("check: ")
    assert words in str(row.error)
    assert tools.names == [str(check["tool"])]


async def test_a_tool_that_is_not_there_fails_the_run(world: World, tools: Tools) -> None:
    with pytest.raises(FailedRun):
        await work(tool="acts", policy={"check": {"tool": "nobody"}})

    assert "check: tool: " in str((await world.row()).error)
    assert tools.names == []


@pytest.mark.parametrize(("word", "status"), [("True", "succeeded"), ("False", "skipped")])
@pytest.mark.slow
async def test_a_servers_tool_is_asked(world: World, tools: Tools, word: str, status: str) -> None:
    source = f"@server.tool\ndef is_due() -> bool:\n    tell('asked')\n    return {word}\n"
    async with served(world, source) as server:
        check = {"tool": f"{server.name}.is_due"}
        result: Any = await work(tool="acts", policy={"check": check})
        await server.says("asked")

    assert result["status"] == status
    assert tools.names == (["acts"] if status == "succeeded" else [])


@pytest.mark.slow
async def test_a_webhook_has_a_gate_as_well(world: World, tools: Tools) -> None:
    check = {"tool": "gives", "params": {"answer": False}}
    url = "http://127.0.0.1:9/nobody-listens"

    result: Any = await other(url=url, policy={"check": check})

    assert (result["status"], tools.names) == ("skipped", ["gives"])


# --- a prompt


RUN = '{"action": "run", "reason": "three new issues"}'
SKIP = '{"action": "skip", "reason": "nothing new"}'


@pytest.mark.parametrize("said", [RUN, f"```json\n{RUN}\n```", f"\n```\n{RUN}\n```\n"])
@pytest.mark.slow
async def test_a_gate_that_says_run_is_followed_by_the_run(
    world: World, asked: Asked, said: str
) -> None:
    gate = Answer(said, input_tokens=100, output_tokens=10)
    result = await asked.run(gate, Answer("Done.", input_tokens=1_000, output_tokens=200))

    assert (result["status"], result["output"]) == ("succeeded", "Done.")
    assert asked.models == ["fast", "large"]
    question, work = asked.here.requests
    assert question.prompt.startswith("Anything new?\n\n")
    assert '{"action": "skip"' in question.prompt
    assert work.prompt == "Do it"
    row = await world.row()
    keys = [seen.headers["idempotency-key"] for seen in asked.here.requests]
    assert keys == [f"{row.occurrence}#check", row.occurrence]
    assert row.usage is not None
    took = [row.usage[name] for name in ("requests", "input_tokens", "output_tokens")]
    assert took == [2, 1_100, 210]


@pytest.mark.slow
async def test_a_gate_that_says_skip_is_all_that_the_run_cost(world: World, asked: Asked) -> None:
    result = await asked.run(Answer(SKIP, input_tokens=100, output_tokens=10))

    assert (result["status"], result["reason"]) == ("skipped", "check: nothing new")
    assert asked.models == ["fast"]
    row = await world.row()
    assert (row.status, row.reason, row.attempts) == ("skipped", "check: nothing new", 0)
    assert row.usage is not None
    assert (row.usage["requests"], row.usage["input_tokens"]) == (1, 100)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("There is nothing to do.", "is not JSON"),
        (f"Of course! {RUN}", "is not JSON"),
        (f"```json\n{RUN}\n```\nThat is all.", "is not JSON"),
        ('{"action": "delete", "reason": "x"}', "returned an invalid answer"),
        ('{"action": "run", "reason": 5}', "returned an invalid answer"),
        ('["run"]', "returned an invalid answer"),
        ("", "is not JSON"),
        (Answer("", tool="shell", finish="tool_calls"), CALLED),
        (Answer(RUN, tool="shell", finish="tool_calls"), CALLED),
        (Answer(RUN, finish="length"), "was cut"),
        (limited(), "429"),
    ],
    ids=[
        *(
            "prose",
            "prose-before",
            "prose-after",
            "another-action",
            "no-words",
            "a-list",
            "nothing",
        ),
        *("a-tool-call", "a-tool-call-beside-it", "cut", "429"),
    ],
)
@pytest.mark.slow
async def test_anything_else_fails_the_run_after_one_question(
    world: World, asked: Asked, step: Step, words: str
) -> None:
    with pytest.raises(FailedRun):
        await asked.run(step, policy={"retries": 2})

    row = await world.row()
    assert (row.status, row.attempts) == ("failed", 0)
    assert str(row.error).startswith("check: ")
    assert words in str(row.error)
    assert asked.models == ["fast"]


async def test_what_a_failed_gate_took_is_in_the_book(world: World, asked: Asked) -> None:
    with pytest.raises(FailedRun):
        await asked.run(Answer("Hm.", input_tokens=100, output_tokens=10))

    row = await world.row()
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (100, 10)


@pytest.mark.slow
async def test_the_question_has_the_variables_of_a_prompt(world: World, asked: Asked) -> None:
    await asked.run(SKIP, prompt="Is it late? It is {{due}}.")

    row, [question] = await world.row(), asked.here.requests
    assert f"It is {row.due:%Y-%m-%dT%H:%M}" in question.prompt


@pytest.mark.slow
async def test_without_an_agent_of_its_own_the_jobs_agent_is_asked(
    world: World, asked: Asked
) -> None:
    await asked.run(SKIP, policy={"check": {"prompt": "Anything new?"}})

    assert asked.models == ["large"]


async def test_a_further_attempt_is_not_asked_for_again(world: World, asked: Asked) -> None:
    result = await asked.run(RUN, limited("1"), "Done.", policy={"retries": 1})

    assert result["status"] == "succeeded"
    assert asked.models == ["fast", "large", "large"]
    assert (await world.row()).attempts == 2


# --- a command


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("print('mail')", "succeeded", ""),
        ("print('no mail\\nsince noon'); raise SystemExit(1)", "skipped", "check: no mail"),
        ("raise SystemExit(1)", "skipped", f"check: {sys.executable} exited with code 1"),
    ],
)
@pytest.mark.slow
async def test_a_commands_exit_code_decides(
    world: World, tools: Tools, program: str, status: str, reason: str
) -> None:
    check = {"command": python(program)}

    result: Any = await work(tool="acts", policy={"check": check})

    assert (result["status"], result["reason"]) == (status, reason)
    assert tools.names == (["acts"] if status == "succeeded" else [])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (python("raise SystemExit(2)"), "exited with code 2"),
        (python("import sys; print('why', file=sys.stderr); sys.exit(3)"), "3: why"),
        (python("import os; os.kill(os.getpid(), 9)"), "exited with code -9"),
        (["no-such-program-anywhere"], "there is no program"),
        (python("import signal; signal.pause()"), "did not end within 5 s"),
    ],
    ids=["2", "3", "killed", "missing", "too-long"],
)
@pytest.mark.slow
async def test_a_command_that_fails_fails_the_run(
    world: World, tools: Tools, command: list[str], words: str
) -> None:
    with pytest.raises(FailedRun):
        await work(
            tool="acts",
            policy={"check": {"command": command}, "timeout": "5s"},
        )

    row = await world.row()
    assert (row.status, row.attempts) == ("failed", 0)
    assert str(row.error).startswith("check: ")
    assert words in str(row.error)
    assert tools.names == []


async def test_a_command_sees_nothing_of_ours(world: World, tools: Tools) -> None:
    program = (
        "import os; print([n for n in os.environ if n[:8] in ('DAYBOOK_', 'PREFECT_')], "
        "os.listdir()); raise SystemExit(1)"
    )

    await work(tool="acts", policy={"check": {"command": python(program)}})

    assert (await world.row()).reason == "check: [] []"


# --- the claim, meanwhile


async def test_a_lease_that_is_refused_ends_the_gate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, execute, run_lease_renewal=0.05)
    gate, main = await world.agents.add('tell("asked"); forever()'), await world.agents.add("had()")
    policy = {"check": {"prompt": "New?", "agent": gate.name}}
    task = asyncio.create_task(
        call(prompt="Do it", agent=main.name, policy=policy, return_state=True)
    )
    pid = await gate.says("asked")

    async with world.ledger.write() as session:
        row = await world.row()
        row.fence, row.holder, row.flow_run_id = row.fence + 1, "there:2", "another"
        await session.merge(row)
    state = await task

    assert not alive(pid)
    assert state.name == "Skipped"
    row = await world.row()
    assert (row.status, row.holder, main.had) == ("claimed", "there:2", 0)


@pytest.mark.slow
async def test_a_script_that_is_stopped_at_its_gate_is_cancelled(world: World) -> None:
    gate, main = await world.agents.add('tell("asked"); forever()'), await world.agents.add("had()")
    policy = {"check": {"prompt": "New?", "agent": gate.name}}
    task = asyncio.create_task(call(prompt="Do it", agent=main.name, policy=policy))
    pid = await gate.says("asked")

    task.cancel()
    with pytest.raises((asyncio.CancelledError, CancelledRun)):
        await task

    assert not alive(pid)
    row = await world.row()
    assert (row.status, row.reason, row.attempts) == ("cancelled", "stopped before it began", 0)
    assert main.had == 0


@pytest.mark.slow
async def test_prefect_shows_a_closed_gate_as_skipped(world: World, tools: Tools) -> None:
    check = {"command": python("raise SystemExit(1)")}
    job = await world.deploy(prompt=None, tool="acts", on_demand=True, policy={"check": check})

    state = await world.workers.executed(await world.prefect.custom_run(job))

    row = await world.row()
    assert (state.name, state.type.value, row.status) == ("Skipped", "CANCELLED", "skipped")
    assert "check: " in str(state.message)
    assert tools.names == []


# --- its tokens


async def test_what_the_gate_took_is_missing_to_the_work(world: World, asked: Asked) -> None:
    gate = Answer(RUN, input_tokens=100, output_tokens=10)
    main = Answer("Done.", input_tokens=80, output_tokens=20)  # 90 are left, of 200

    with pytest.raises(FailedRun):
        await asked.run(gate, main, policy={"tokens_per_run": 200})

    assert asked.models == ["fast", "large"]
    row = await world.row()
    assert (row.status, row.attempts) == ("failed", 1)
    assert "90" in str(row.error)
    assert row.usage is not None
    assert row.usage["input_tokens"] + row.usage["output_tokens"] == 210


async def test_a_gate_beyond_the_runs_tokens_is_the_end_of_it(world: World, asked: Asked) -> None:
    gate = Answer(RUN, input_tokens=100, output_tokens=10)

    with pytest.raises(FailedRun):
        await asked.run(gate, "Done.", policy={"tokens_per_run": 110})

    assert asked.models == ["fast"]
    row = await world.row()
    assert (row.status, row.attempts) == ("failed", 0)
    assert "tokens: the check used 110 of the 110" in str(row.error)
