"""`daybook session list` and `show`, from the ledger alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import SummaryRow
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import Granted
from tests.unit.cli.conftest import MADE
from tests.unit.cli.test_imports import imported


async def _talk(file: Path) -> str:
    """Add a job with three answered runs, and return its id."""
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
        job = new_job(now=MADE, prompt="Any news?", name="brief", on_demand=True)
        async with ledger.write() as session:
            stored = await store.add(session, job, "brief", MADE)
        for number in range(3):
            row = await claims.request(ledger, stored, str(number), "manual")
            claim_request = claim_requests.ClaimRequest(
                row.occurrence, row.kind, "manual", row.due, "h", row.parameters, stored.id
            )
            granted = await claims.claim(ledger, claim_request)
            assert isinstance(granted, Granted)
            await claims.begin(ledger, granted.run_id, granted.fence)
            outcome = Outcome(Status.SUCCEEDED, output=f"/quit\n{number}", prompt="Any news?")
            await claims.finish(ledger, granted.run_id, granted.fence, outcome)
        async with ledger.write() as session:
            session.add(
                SummaryRow(
                    session_id=f"default:job:{stored.id}",
                    through=2,
                    content="Nothing\nnew.",
                    agent="small",
                    run_id=row.id,
                    at=ledger.now(),
                )
            )
        return stored.id


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("talked")
    job_id = asyncio.run(_talk(home / "ledger.db"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBOOK_HOME", str(home))
        yield job_id


def test_list_has_one_line_per_session(daybook: Any, talked: str) -> None:
    (found,) = daybook("session", "list", "--json").json
    assert found.keys() == {
        *("id", "title", "agent", "job", "messages"),
        *("created_at", "last_used_at"),
    }
    assert found["title"] == "Any news?"
    assert (found["id"], found["agent"]) == (f"default:job:{talked}", "default")
    assert (found["job"], found["messages"]) == ("brief", 6)
    assert found["created_at"] < found["last_used_at"]
    head, line = daybook("session", "list").out.splitlines()
    assert head.split() == ["SESSION", "TITLE", "AGENT", "JOB", "MESSAGES", "LAST", "USED"]
    assert re.fullmatch(
        rf"default:job:{talked} +Any news\? +default +brief +6 +(now|\d s ago)", line
    )
    line = daybook("session", "list", "--absolute").out.splitlines()[1]
    assert re.fullmatch(
        rf"default:job:{talked} +Any news\? +default +brief +6 +\d{{4}}-\S+ [\d:]+", line
    )


def test_show_json_has_the_last_messages_with_their_source(daybook: Any, talked: str) -> None:
    found = daybook("session", "show", "brief", "--limit", "2", "--json").json
    assert (found["id"], found["messages"]) == (f"default:job:{talked}", 6)
    prompt, answer = found["history"]
    assert (prompt["number"], prompt["role"], prompt["content"]) == (5, "user", "Any news?")
    assert (answer["number"], answer["role"], answer["content"]) == (6, "assistant", "/quit\n2")
    summary = found["summary"]
    assert (summary["through"], summary["content"], summary["agent"]) == (
        2,
        "Nothing\nnew.",
        "small",
    )
    source = prompt["source"]
    assert (source["job"], source["job_id"], source["trigger"]) == ("brief", talked, "manual")
    assert (source["kind"], source["session"]) == ("agent-prompt", found["id"])
    assert (source["channel"], source["user"]) == (None, None)
    assert daybook("runs", "brief", "--json").json[0]["session_id"] == found["id"]


@pytest.mark.parametrize("ref", ["brief", "default:job:", "{}", "default:job:{}"])
def test_show_prints_the_author_and_text_of_each_message(
    daybook: Any, talked: str, ref: str
) -> None:
    typed = ["session", "show", ref.format(talked), "--limit", "2", "--absolute"]
    lines = daybook(*typed).out.splitlines()
    assert lines[:3] == [
        f"default:job:{talked}",
        "  Any news?",
        "  6 messages with default, last 2 shown",
    ]
    assert re.fullmatch(r"Summary of the messages up to 2, small, \S+ [\d:]+", lines[4])
    assert lines[5:7] == ["  Nothing", "  new."]
    assert re.fullmatch(r"5 brief, \S+ [\d:]+: due \S+ [\d:]+ \(manual, run \w{8}\)", lines[8])
    assert lines[9] == "  Any news?"
    assert re.fullmatch(r"6 default, \S+ [\d:]+", lines[11])
    assert lines[12:] == ["  /quit", "  2"]


def test_an_unknown_session_is_not_found(daybook: Any, talked: str) -> None:
    result = daybook("session", "show", "x")
    assert (result.code, result.out, result.err) == (3, "", 'daybook: session "x" not found\n')
    error = daybook("session", "show", "x", "--json").json["error"]
    assert error == {"code": "not_found", "message": 'session "x" not found'}
    for misspelled, near in (
        ("brieff", "brief"),
        (f"defaultt:job:{talked}", f"default:job:{talked}"),
    ):
        message = f'session "{misspelled}" not found (did you mean "{near}"?)'
        assert message in daybook("session", "show", misspelled).err


@pytest.mark.parametrize("typed", [["list"], ["show", "brief"]])
def test_a_limit_below_one_is_refused(daybook: Any, talked: str, typed: list[str]) -> None:
    result = daybook("session", *typed, "--limit", "0")
    assert (result.code, result.err) == (2, "daybook: --limit: 0 is too small (use 1 or more)\n")


def test_an_empty_list_says_how_a_session_starts(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    result = daybook("session", "list")
    assert (result.code, result.out) == (0, "")
    assert "A job's first answer starts one" in result.err
    assert daybook("session", "list", "--json").json == []


@pytest.mark.slow
def test_session_commands_do_not_import_prefect(talked: str) -> None:
    for typed in (["session", "list"], ["session", "show", "brief"]):
        names = imported(*typed)
        assert "sqlalchemy" in names
        assert not names & {"prefect", "rich"}
    assert not imported("session") & {"prefect", "sqlalchemy", "sqlmodel"}
