from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daybook.agents import kinds
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.offline import OfflineAgent
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.processes import environment


def test_each_slug_builds_its_agent() -> None:
    assert isinstance(kinds.build("daybook-offline-agent", "a", {}), OfflineAgent)
    agent = kinds.build("daybook-command-agent", "b", {"command": ["cat"]})
    assert isinstance(agent, CommandAgent)
    assert agent.name == "b"
    assert agent.settings == CommandSettings(command=["cat"])


def test_a_kind_is_found_by_word_and_by_slug() -> None:
    assert kinds.find_kind("command") is kinds.find_kind("daybook-command-agent") is kinds.COMMAND
    with pytest.raises(InvalidInput) as caught:
        kinds.find_kind("robot")
    assert str(caught.value) == 'kind: unknown "robot" (use one of: offline, command, model)'


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        ({}, "command", "required"),
        ({"command": []}, "command", "is empty"),
        ({"command": "cat"}, "command", "valid list"),
        ({"command": ["cat", "{who}"]}, "command", "unknown placeholder {who}"),
        ({"command": ["cat"], "output": "xml"}, "output", "'text', 'json', 'claude-code' or"),
        ({"command": ["cat"], "work_dir": "here"}, "work_dir", "absolute path"),
        (
            {"command": ["cat"], "environment": ["DAYBOOK_HOME"]},
            "environment",
            "cannot be passed on",
        ),
        ({"command": ["cat"], "shell": True}, "shell", "unknown field"),
    ],
)
def test_bad_settings_name_their_field(data: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.COMMAND.validate(data)
    assert caught.value.field == field
    assert words in caught.value.problem
    listed = "command, work_dir, environment, output, history" in caught.value.hint
    assert listed is (field == "shell")  # only for an unknown field
    with pytest.raises(AgentMisconfigured, match=f'agent "b": {field}: '):
        kinds.build(kinds.COMMAND.slug, "b", data)


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("#!/bin/sh\n", 0o700, None),
        ("#!/bin/sh\r\n", 0o700, "has Windows line endings"),
        ("echo hi\n", 0o700, "has no first line such as #!/bin/sh"),
        ("#!/no/such/shell\n", 0o700, "needs /no/such/shell"),
        ("#!/bin/sh\n", 0o600, "is not an executable file"),
        (None, 0, "there is no program"),
    ],
)
def test_the_problem_of_a_stored_agent_is_that_its_program_cannot_start(
    tmp_path: Path, content: str | None, mode: int, problem: str | None
) -> None:
    script = tmp_path / "agent.sh"
    if content is not None:
        script.write_text(content)
        script.chmod(mode)
    by_path: dict[str, Any] = {"command": [str(script)]}
    for data in (by_path, {"command": ["./agent.sh"], "work_dir": str(tmp_path)}):
        found = kinds.COMMAND.problem(data)
        assert found is None if problem is None else problem in str(found)
    # The work directory of a job can contain the program.
    assert kinds.COMMAND.problem({"command": ["./agent.sh"]}) is None


def test_the_problem_of_a_stored_agent_is_its_invalid_setting() -> None:
    assert "unknown placeholder" in str(kinds.COMMAND.problem({"command": ["cat", "{who}"]}))
    assert kinds.OFFLINE.problem({}) is None


def test_an_error_never_quotes_the_given_value() -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.COMMAND.validate({"command": {"token": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_the_default_allow_list_passes_its_own_check() -> None:
    environment.check(CommandSettings(command=["cat"]).environment)


@pytest.mark.parametrize(
    ("slug", "data", "words"),
    [
        ("daybook-offline-agent", {}, 'agent "a" is offline and has no choice of models'),
        ("daybook-command-agent", {"command": ["cat"]}, 'agent "a" is a command and has no choice'),
        ("daybook-model-agent", {"model": "openai:x"}, '"nosuch:y" names no known provider'),
    ],
)
def test_each_kind_refuses_an_unusable_model_with_a_reason(
    slug: str, data: dict[str, Any], words: str
) -> None:
    agent = kinds.build(slug, "a", data)
    agent.check_model("")
    with pytest.raises(AgentMisconfigured, match=words):
        agent.check_model("nosuch:y")
