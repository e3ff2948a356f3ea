"""The form with the agents of this machine, and the form that asks an agent."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from daybook.agents import candidates, kinds
from daybook.api import agents
from daybook.prefect import client as connection
from tests.unit.resources.prefect_blocks import FakePrefect, Steps
from tests.unit.web.submitting import Forms, submit

pytestmark = pytest.mark.anyio

OFFLINE, COMMAND = kinds.OFFLINE.slug, kinds.COMMAND.slug
CODEX = "Codex (codex 0.143.0 is on the PATH)"
GEMINI = "Gemini CLI (gemini 0.49.0 is on the PATH)"


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    """Return a Prefect whose agent `default` is offline."""
    fake = FakePrefect(tuple(kinds.KINDS.values()), Steps())
    fake.register()
    fake.ui(OFFLINE, "default")

    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(connection, "connected", lambda *_: nullcontext(fake))
    monkeypatch.setattr(connection, "answering", lambda *_: nullcontext(fake))
    monkeypatch.setattr(connection, "check_connection", nothing)
    monkeypatch.setattr(agents, "_check_tools", nothing)
    return fake


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of this machine's programs: Codex and Gemini, which print their input."""
    for limit in ("PROGRAM_SECONDS", "SERVER_SECONDS"):
        monkeypatch.setattr(candidates, limit, 60.0)  # for a loaded machine
    for name, version in {"codex": "codex-cli 0.143.0", "gemini": "0.49.0"}.items():
        text = f'#!/bin/sh\n[ "$1" = --version ] && echo {version} || cat\n'
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.defpath}"
    monkeypatch.setenv(candidates.MACHINE_VARIABLE, json.dumps({"path": path, "ports": {}}))
    return tmp_path


async def test_a_chosen_program_replaces_the_offline_default_and_can_be_asked(
    prefect: FakePrefect, programs: Path, browser: httpx.AsyncClient
) -> None:
    text = (await browser.get("/agents/found")).text
    assert CODEX in text and GEMINI in text
    (form,) = (each for each in Forms(text).forms if each.action == "/agents/found")
    assert ("agent", CODEX) in form.fields and ("name", "default") in form.fields
    answer, _ = await submit(browser, "/agents/found", "/agents/found", agent=GEMINI)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"/agents/{COMMAND}/default/edit?")
    assert "a folder that it does not trust" in (await browser.get(answer.headers["location"])).text
    ((slug, name),) = prefect.holds()
    assert (slug, name) == (COMMAND, "default")
    assert prefect.holds()[COMMAND, "default"]["command"][0] == str(programs / "gemini")

    page, ask = f"/agents/{COMMAND}/default/edit", f"/agents/{COMMAND}/default/test"
    answer, after = await submit(browser, page, ask, prompt="Say <b>hello</b>.\nTwice.")
    assert answer.status_code == 303
    assert "The test succeeded:" in after.status
    text = (await browser.get(answer.headers["location"])).text
    assert "Say &lt;b&gt;hello&lt;/b&gt;." in text and "Twice." in text


async def test_a_default_agent_that_answers_is_not_replaced(
    prefect: FakePrefect, programs: Path, browser: httpx.AsyncClient
) -> None:
    await submit(browser, "/agents/found", "/agents/found")
    before = prefect.holds()
    text = (await browser.get("/agents/found")).text
    (form,) = (each for each in Forms(text).forms if each.action == "/agents/found")
    assert ("name", "") in form.fields
    answer, after = await submit(browser, "/agents/found", "/agents/found", name="default")
    assert (answer.status_code, after.invalid) == (400, ["name"])
    assert prefect.holds() == before


async def test_an_agent_that_is_gone_is_refused_at_its_field(
    prefect: FakePrefect, programs: Path, browser: httpx.AsyncClient
) -> None:
    before = prefect.holds()
    typed = {"agent": "Claude Code (claude 1.0 is on the PATH)", "name": "mine"}
    answer, after = await submit(browser, "/agents/found", "/agents/found", **typed)
    assert (answer.status_code, after.invalid) == (400, ["agent"])
    assert "choose another one" in after.problems["agent-problem"]
    assert prefect.holds() == before


async def test_a_machine_without_agents_has_no_form(
    prefect: FakePrefect, browser: httpx.AsyncClient
) -> None:
    text = (await browser.get("/agents/found")).text
    assert "No agents on this machine" in text
    assert not [each for each in Forms(text).forms if each.action == "/agents/found"]


async def test_the_error_of_an_agent_is_shown_and_the_prompt_is_kept(
    prefect: FakePrefect, browser: httpx.AsyncClient
) -> None:
    prefect.ui(COMMAND, "broken", command=["/bin/sh", "-c", "echo no luck >&2; exit 3"])
    page, ask = f"/agents/{COMMAND}/broken/edit", f"/agents/{COMMAND}/broken/test"
    answer, after = await submit(browser, page, ask, prompt="Why?")
    assert answer.status_code == 500
    assert "no luck" in after.problems[""]
    (form,) = (each for each in after.forms if each.action == ask)
    assert ("prompt", "Why?") in form.fields
