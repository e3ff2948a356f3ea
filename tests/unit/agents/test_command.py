"""Command agents that run real programs: input, output, environment, errors and folders."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import stat
import sys
import tempfile
import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import process
from daybook.agents.base import AgentReply, AgentRequest
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentFailed, AgentMisconfigured, AgentTemporary
from daybook.settings import all_settings

pytestmark = pytest.mark.anyio

Script = Callable[[str], list[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Return a function that makes a command from lines of Python."""

    def write(lines: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(lines))
        return [sys.executable, "-I", "-S", str(path)]

    return write


def agent(command: list[str], **settings: Any) -> CommandAgent:
    return CommandAgent("robot", CommandSettings(command=command, **settings))


def request(prompt: str = "Hello", **given: Any) -> AgentRequest:
    return AgentRequest(prompt=prompt, **{"timeout": 20.0, "occurrence": "flow:1", **given})


async def ask(command: list[str], prompt: str = "Hello", **settings: Any) -> AgentReply:
    return await agent(command, **settings).answer(request(prompt))


async def test_the_prompt_goes_to_standard_input_and_the_output_is_the_answer() -> None:
    assert (await ask(["cat"], "Grüße\n, {job} $HOME\n")).text == "Grüße\n, {job} $HOME"


async def test_a_prompt_placeholder_receives_the_prompt_instead_of_standard_input(
    script: Script,
) -> None:
    command = script("import sys; print(sys.argv[1:], repr(sys.stdin.read()))")
    due = datetime(2027, 1, 15, 14, 30, tzinfo=timezone(timedelta(hours=1)))
    filled = await agent([*command, "-p", "{prompt}", "{job}", "{due}", "{occurrence}"]).answer(
        request("a 'b'; $(c)", job="brief", due=due, occurrence="due:brief:x")
    )
    expected = ["-p", "a 'b'; $(c)", "brief", "2027-01-15T13:30:00Z", "due:brief:x"]
    assert filled.text == f"{expected} ''"


async def test_only_the_listed_variables_reach_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROBOT_LEVEL", "high")
    monkeypatch.setenv("UNLISTED", "hidden")
    monkeypatch.setenv("PREFECT_API_KEY", "hidden")
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "hidden")
    reply = await ask(["env"], environment=["ROBOT_LEVEL", "PATH", "NOT_SET"])
    assert sorted(reply.text.splitlines()) == [f"PATH={os.environ['PATH']}", "ROBOT_LEVEL=high"]


async def test_a_program_of_a_run_gets_the_run_the_job_the_due_time_and_the_attempt() -> None:
    due = datetime(2027, 1, 15, 14, 30, tzinfo=timezone(timedelta(hours=1)))
    of_run: dict[str, Any] = {"run_id": "r" * 32, "job": "brief", "due": due, "attempt": 2}
    reply = await agent(["env"], environment=["PATH"]).answer(request(**of_run))
    given = dict(each.split("=", 1) for each in reply.text.splitlines())
    assert {name: value for name, value in given.items() if name != "PATH"} == {
        "DAYBOOK_RUN_ID": "r" * 32,
        "DAYBOOK_JOB": "brief",
        "DAYBOOK_DUE": "2027-01-15T13:30:00Z",
        "DAYBOOK_ATTEMPT": "2",
    }
    settings = {f"DAYBOOK_{name.upper()}" for name in all_settings().model_fields}
    assert settings.isdisjoint(given)  # a nested `daybook` is not configured by them


async def test_json_output_is_parsed(script: Script) -> None:
    reply = await ask(script("""print('{"n": [1, null], "s": "ä"}')"""), output="json")
    assert reply.result == {"n": [1, None], "s": "ä"}
    assert reply.text == '{"n": [1, null], "s": "ä"}'


@pytest.mark.parametrize("printed", ["", "Sure! {}", "{} {}", '{"n": NaN}', "[" * 100_000])
async def test_output_that_is_not_json_is_a_failure(script: Script, printed: str) -> None:
    with pytest.raises(AgentFailed, match="the answer is not JSON") as caught:
        await ask(script(f"print({printed!r})"), output="json")
    assert caught.value.output == printed


async def test_a_nonzero_exit_code_is_a_failure_with_the_last_output(script: Script) -> None:
    with pytest.raises(AgentFailed) as caught:
        await ask(
            script(
                """
                import sys
                sys.stderr.write("early\\n" * 5000 + "no credit left\\n")
                print("so far")
                sys.exit(3)
                """
            )
        )
    message = str(caught.value)
    assert "exited with code 3; it printed: " in message
    assert message.endswith("no credit left")
    assert len(message) < 2200
    assert caught.value.output == "so far"


async def test_a_failure_without_output_and_a_signal_are_named() -> None:
    with pytest.raises(AgentFailed, match="false exited with code 1; it printed nothing"):
        await ask(["false"])
    with pytest.raises(AgentFailed, match="sh was ended by SIGSEGV"):
        await ask(["sh", "-c", "kill -SEGV $$"])


@pytest.mark.parametrize("output", ["text", "json", "claude-code"])
async def test_a_failed_program_that_prints_its_reason_to_standard_output_is_quoted(
    monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setenv("MODEL_KEY", "sk-very-secret")
    source = (
        "cat > /dev/null; yes early | head -n 2000; echo Credit of $MODEL_KEY is too low; exit 1"
    )
    with pytest.raises(AgentFailed) as caught:
        await ask(["sh", "-c", source], output=output, environment=["PATH", "MODEL_KEY"])
    message = str(caught.value)
    assert "sh exited with code 1; it printed to standard output: " in message
    assert message.endswith("early\nCredit of [MODEL_KEY] is too low")
    assert len(message) < 2200


async def test_an_error_does_not_contain_the_values_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_ENDPOINT", "https://me:pw@host")
    command = ["sh", "-c", 'echo "out $MODEL_ENDPOINT"; echo "err $MODEL_ENDPOINT" >&2; exit 1']
    with pytest.raises(AgentFailed) as caught:
        await ask(command, environment=["PATH", "MODEL_ENDPOINT"])
    assert str(caught.value) == "sh exited with code 1; it printed: err [MODEL_ENDPOINT]"
    assert caught.value.output == "out [MODEL_ENDPOINT]"


async def test_an_error_does_not_contain_a_part_of_a_value_where_it_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "".join(f"{number:04}" for number in range(20))
    monkeypatch.setenv("MY_API_KEY", key)
    command = ["sh", "-c", """printf '%s%01960d' "$MY_API_KEY" 7 >&2; exit 1"""]
    with pytest.raises(AgentFailed) as caught:
        await ask(command, environment=["PATH", "MY_API_KEY"])
    assert str(caught.value).endswith("0007")
    assert not any(key[at : at + 8] in str(caught.value) for at in range(len(key) - 8))


@pytest.mark.parametrize("code", [0, 1])
async def test_an_output_that_is_cut_within_a_secret_does_not_contain_its_start(
    script: Script, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("MY_API_KEY", "mysecret-12345678")
    count = process.MAX_OUTPUT_BYTES - 10
    source = f"import os; print('x' * {count} + os.environ['MY_API_KEY']); raise SystemExit({code})"
    try:
        text = (await ask(script(source), environment=["PATH", "MY_API_KEY"])).text
    except AgentFailed as failed:
        text = failed.output
    assert text.strip("x").startswith("[MY_API_KEY]")


async def test_huge_output_is_cut_and_reported_as_cut(script: Script) -> None:
    # Three-byte characters: the limit is within one.
    count = process.MAX_OUTPUT_BYTES
    lines = f"""
        import sys
        sys.stdout.buffer.write('€'.encode() * {count})
        sys.stderr.write('x' * 10**6)
    """
    reply = await ask(script(lines))
    assert reply.text == "€" * (process.MAX_OUTPUT_BYTES // 3)
    assert reply.cut == f"{3 * count - process.MAX_OUTPUT_BYTES} more bytes were printed"
    with pytest.raises(AgentFailed) as failed:
        await ask([*script(f"print('x' * {count + 6}); raise SystemExit(1)")])
    assert failed.value.output.endswith("x\n[cut here: 7 more bytes were printed]")
    with pytest.raises(AgentFailed, match="longer than 4194304 bytes"):
        await ask(script(lines), output="json")


async def test_a_huge_prompt_reaches_a_program_that_prints_while_it_reads() -> None:
    prompt = "0123456789abcde\n" * 200_000
    assert (await ask(["cat"], prompt)).text == prompt.rstrip("\n")


@pytest.mark.parametrize(
    "lines",
    ["print('done')", "import os; os.close(0); print('done')", "input(); print('done')"],
    ids=["never reads", "closes", "reads a little"],
)
async def test_a_huge_prompt_that_is_not_read_is_no_error(script: Script, lines: str) -> None:
    assert (await ask(script(lines), "line\n" * 2_000_000)).text == "done"


async def test_a_lone_surrogate_in_a_prompt_is_replaced() -> None:
    assert (await ask(["cat"], "a\ud800b")).text == "a?b"


async def test_output_that_is_not_utf8_is_decoded_with_replacements(script: Script) -> None:
    command = script("import sys; sys.stdout.buffer.write(b'a\\xffb')")
    assert (await ask(command)).text == "a\ufffdb"


async def test_each_run_has_an_empty_private_folder_that_is_removed_afterwards() -> None:
    reply = await ask(["sh", "-c", "pwd; ls -A; echo x > made"])
    folder = Path(reply.text)
    assert folder.name.startswith("daybook-agent-")
    assert folder.name not in os.listdir(tempfile.gettempdir())
    mode = await ask([sys.executable, "-c", "import os; print(os.stat('.').st_mode)"])
    assert stat.S_IMODE(int(mode.text)) == 0o700


async def test_a_work_dir_is_used_and_not_removed(tmp_path: Path) -> None:
    await ask(["sh", "-c", "echo x > made"], work_dir=str(tmp_path))
    assert (tmp_path / "made").read_text() == "x\n"


async def test_a_work_dir_may_start_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    assert (await ask(["pwd"], work_dir="~/work")).text == str((tmp_path / "work").resolve())


def _written(path: Path, text: str, mode: int) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_a_command_that_cannot_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    plain = _written(tmp_path / "plain", "echo\n", 0o600)
    shebang = _written(tmp_path / "shebang", "#!/no/such/interpreter\n", 0o700)
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (["no-such-program"], {}, 'agent "robot": there is no program "no-such-program"'),
        (["/no/such/program"], {}, "there is no program /no/such/program"),
        ([plain], {}, "is not an executable file"),
        ([str(tmp_path)], {}, "is not an executable file"),
        ([shebang], {}, "shebang needs /no/such/interpreter (in its first line), which does"),
        (["touch", "made"], {"work_dir": f"{tmp_path}/none"}, "is not a folder on this machine"),
        (["touch", "made"], {"work_dir": plain}, "is not a folder on this machine"),
    ]
    for command, settings, words in cases:
        with pytest.raises(AgentMisconfigured) as caught:
            await ask(command, **settings)
        assert words in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["plain", "shebang"]


async def test_a_relative_program_path_starts_at_the_work_dir(tmp_path: Path) -> None:
    _written(tmp_path / "robot.sh", "#!/bin/sh\necho here\n", 0o700)
    assert (await ask(["./robot.sh"], work_dir=str(tmp_path))).text == "here"


@pytest.mark.floor("C", "work_dir of a job takes the place of the agent's")
async def test_a_jobs_work_dir_takes_the_place_of_the_agents(tmp_path: Path) -> None:
    own, jobs = tmp_path / "own", tmp_path / "jobs"
    own.mkdir()
    jobs.mkdir()
    _written(own / "robot.sh", "#!/bin/sh\npwd\n", 0o700)
    robot = agent(["./robot.sh"], work_dir=str(own))
    answered = await robot.answer(request(work_dir=str(jobs)))
    assert answered.text == str(jobs.resolve())


async def test_a_prompt_that_cannot_be_an_argument_is_refused(script: Script) -> None:
    command = [*script("print('ran')"), "{prompt}"]
    with pytest.raises(AgentMisconfigured, match=r"3000000 bytes.* remove {prompt} from"):
        await ask(command, "x" * 3_000_000)
    with pytest.raises(AgentFailed, match="cannot be passed as an argument"):
        await ask(command, "a\0b")


async def test_a_program_that_cannot_be_started_now_is_a_temporary_error(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("daybook.agents.process.run", run)
    with pytest.raises(AgentTemporary, match="could not be started: Resource temporarily"):
        await ask(script("print('ran')"))


async def test_twelve_programs_run_at_the_same_time(tmp_path: Path) -> None:
    """Each of the twelve programs waits until all twelve run."""
    wait = 'echo >> "$0"; until [ "$(wc -l < "$0")" -ge 12 ]; do :; done; echo met'
    command = ["sh", "-c", wait, str(tmp_path / "count")]
    replies = await asyncio.gather(*(ask(command) for _ in range(12)))
    assert [reply.text for reply in replies] == ["met"] * 12


async def test_all_pipes_are_closed_after_an_answer(tmp_path: Path) -> None:
    await ask(["cat"])
    gc.collect()  # earlier tests may have left some
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        await ask(["cat"], "x" * 100_000)
        with pytest.raises(AgentFailed):
            await ask(["false"], "x" * 1_000_000)
    assert len(os.listdir("/dev/fd")) <= before


def test_each_field_of_the_settings_has_a_title_and_a_description() -> None:
    schema = json.loads(json.dumps(CommandSettings.model_json_schema()))
    for name, field in schema["properties"].items():
        assert len(field["description"]) > 40, name
        assert field["title"]
