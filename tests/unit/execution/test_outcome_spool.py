"""The spool: files of outcomes that could not be recorded, and their later recording."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LedgerUnreachable
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome, SpoolResult
from daybook.ledger.states import Outcome, Status
from tests.unit.execution.conftest import ActiveRun

pytestmark = pytest.mark.anyio

DONE = Outcome(
    Status.SUCCEEDED,
    output="All is well \N{CHECK MARK}",
    result={"answer": [1, None, "two"]},
    model="a model",
    usage={"input_tokens": 7},
)


def known(active: ActiveRun, outcome: Outcome = DONE, **changes: Any) -> SpooledOutcome:
    granted = active.granted
    return replace(
        SpooledOutcome(active.ledger.id, granted.run_id, granted.fence, outcome), **changes
    )


async def test_drain_records_the_whole_outcome_and_removes_its_file(active: ActiveRun) -> None:
    outcome_spool.put(known(active))

    assert await outcome_spool.drain(active.ledger) == SpoolResult(written=1)

    row = await active.row()
    assert (row.status, row.output, row.result) == ("succeeded", DONE.output, DONE.result)
    assert (row.model, row.usage) == (DONE.model, DONE.usage)
    assert list(outcome_spool.folder().iterdir()) == []


async def test_an_outcome_whose_usage_cannot_be_stored_is_recorded_without_usage(
    active: ActiveRun,
) -> None:
    usage = {"requests": 1, "input_tokens": 2**70, "output_tokens": 1, "cost_usd": None}

    assert await known(active, replace(DONE, usage=usage)).write(active.ledger) is Status.SUCCEEDED

    row = await active.row()
    assert (row.status, row.output, row.usage) == ("succeeded", DONE.output, None)
    assert row.warnings == [
        "the usage cannot be stored: Python int too large to convert to SQLite INTEGER"
    ]


async def test_a_spooled_failed_attempt_leads_to_the_next_one(active: ActiveRun) -> None:
    until = SYSTEM_CLOCK.now() + timedelta(hours=1)
    failed = Outcome(Status.FAILED, error="429")
    outcome_spool.put(known(active, failed, until=until))

    await outcome_spool.drain(active.ledger)

    row = await active.row()
    assert (row.status, row.until, row.fence) == ("waiting", until, 2)
    assert active.query("SELECT status, error FROM attempts") == [("failed", "429")]


async def test_spool_files_are_private_to_their_owner(active: ActiveRun) -> None:
    file = outcome_spool.put(known(active))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.name == f"{active.granted.run_id}-1-1.json"
    assert os.listdir(file.parent) == [file.name]


async def test_the_first_file_and_its_folder_are_synced_to_disk(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        really(descriptor)
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    place = outcome_spool.folder()
    assert not place.exists()

    outcome_spool.put(known(active))

    draft, *folders = [each for each in synced if each != place.parent]
    assert (draft.parent, draft.suffix, folders) == (place, ".new", [place])
    assert place.parent in synced


@pytest.mark.parametrize("until", [None, timedelta(hours=1)], ids=["finish", "retry"])
async def test_an_outcome_whose_file_was_not_removed_is_recorded_only_once(
    active: ActiveRun, until: timedelta | None
) -> None:
    failed = Outcome(Status.FAILED, error="no")
    at = None if until is None else SYSTEM_CLOCK.now() + until
    file = outcome_spool.put(known(active, failed, until=at))
    text = file.read_text()
    await outcome_spool.drain(active.ledger)
    before = await active.row()

    file.write_text(text)
    assert await outcome_spool.drain(active.ledger) == SpoolResult(written=1)

    assert await active.row() == before
    assert before.evidence == []


async def test_a_drain_without_a_reachable_ledger_keeps_the_file(active: ActiveRun) -> None:
    file = outcome_spool.put(known(active))
    with active.locked(), pytest.raises(LedgerUnreachable):
        await outcome_spool.drain(active.ledger)

    assert file.exists()
    assert await outcome_spool.drain(active.ledger) == SpoolResult(written=1)


async def test_an_outcome_with_an_old_fencing_token_is_kept_as_evidence(
    active: ActiveRun,
) -> None:
    outcome_spool.put(known(active))
    active.take_over()

    assert await outcome_spool.drain(active.ledger) == SpoolResult(refused=1)

    row = await active.row()
    assert (row.status, [each["status"] for each in row.evidence]) == ("running", ["succeeded"])
    assert outcome_spool.pending_files() == []


async def test_a_spooled_outcome_corrects_an_unknown_run(active: ActiveRun) -> None:
    active.query("UPDATE runs SET status = 'unknown', reason = 'the lease was lost'")
    outcome_spool.put(known(active))

    await outcome_spool.drain(active.ledger)

    assert (await active.row()).status == "succeeded"


def _torn(text: str) -> str:
    return text[: len(text) // 2]


def _of_no_version(text: str) -> str:
    return json.dumps({**json.loads(text), "version": 0})


def _of_no_run(text: str) -> str:
    return json.dumps({**json.loads(text), "run": "nobody"})


def _without_a_zone(text: str) -> str:
    return json.dumps({**json.loads(text), "until": "2026-01-15T12:00:00"})


def _without_a_status(text: str) -> str:
    return json.dumps({**json.loads(text), "outcome": {"status": "done"}})


@pytest.mark.parametrize(
    "spoil", [_torn, _of_no_version, _of_no_run, _without_a_zone, _without_a_status]
)
async def test_an_unreadable_file_is_set_aside_and_the_others_are_recorded(
    active: ActiveRun, spoil: Any
) -> None:
    bad = outcome_spool.put(known(active, run_id="0" * 32))
    bad.write_text(spoil(bad.read_text()))
    outcome_spool.put(known(active))

    assert await outcome_spool.drain(active.ledger) == SpoolResult(written=1, aside=1)

    assert outcome_spool.set_aside_files() == [bad.with_suffix(".aside")]
    assert await outcome_spool.drain(active.ledger) == SpoolResult()


async def test_only_the_last_files_that_were_set_aside_are_kept(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome_spool, "MAX_ASIDE_FILES", 2)
    first, *later = [outcome_spool.put(known(active, run_id=f"{each:032}")) for each in range(3)]
    for seconds, each in enumerate((first, *later)):
        each.write_text("{")
        await outcome_spool.drain(active.ledger, each.name.partition("-")[0])
        if each != later[-1]:  # set aside in earlier seconds
            os.utime(each.with_suffix(".aside"), (seconds, seconds))

    assert outcome_spool.set_aside_files() == [each.with_suffix(".aside") for each in later]


async def test_outcomes_of_another_ledger_wait_for_it(active: ActiveRun) -> None:
    file = outcome_spool.put(known(active, ledger_id="another"))

    assert await outcome_spool.drain(active.ledger) == SpoolResult(left=1)

    assert file.exists()
    assert (await active.row()).status == "running"


async def test_a_file_of_a_newer_program_waits_for_it(active: ActiveRun) -> None:
    file = outcome_spool.put(known(active))
    content = json.loads(file.read_text())
    newer = {"version": outcome_spool.VERSION + 1, "outcome": {**content["outcome"], "new": 1}}
    file.write_text(json.dumps({**content, **newer}))

    assert await outcome_spool.drain(active.ledger) == SpoolResult(left=1)

    assert (file.exists(), outcome_spool.set_aside_files()) == (True, [])


async def test_a_drain_for_one_run_leaves_the_files_of_other_runs(active: ActiveRun) -> None:
    other = outcome_spool.put(known(active, run_id="0" * 32))
    outcome_spool.put(known(active))

    assert await outcome_spool.drain(active.ledger, active.granted.run_id) == SpoolResult(written=1)

    assert outcome_spool.pending_files() == [other]


async def test_further_outcomes_of_one_claim_have_files_of_their_own(active: ActiveRun) -> None:
    first = outcome_spool.put(known(active))
    names = [outcome_spool.put(known(active)).name for _ in range(10)]

    assert outcome_spool.pending_files() == [first, *(first.parent / name for name in names)]
    assert names[-1] == f"{active.granted.run_id}-1-11.json"


def _aged(file: Path, seconds: float) -> None:
    then = SYSTEM_CLOCK.now().timestamp() - seconds
    os.utime(file, (then, then))


async def test_a_draft_is_left_to_its_writer_until_it_is_too_old(
    active: ActiveRun,
) -> None:
    file = outcome_spool.put(known(active))
    draft = file.with_suffix(".4711.new")
    file.rename(draft)

    assert await outcome_spool.drain(active.ledger) == SpoolResult()
    assert draft.exists()
    _aged(draft, outcome_spool.MAX_DRAFT_AGE_SECONDS + 1)
    assert await outcome_spool.drain(active.ledger) == SpoolResult()
    assert not draft.exists()


async def test_a_home_without_a_spool_has_nothing_to_drain(active: ActiveRun) -> None:
    assert await outcome_spool.drain(active.ledger) == SpoolResult()
    assert not outcome_spool.folder().exists()


@pytest.mark.parametrize("fails", ["unlink", "iterdir"])
async def test_a_failing_disk_ends_no_run_that_has_its_outcome(
    active: ActiveRun, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome_spool.put(known(active))

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(Path, fails, broken)
        first = await outcome_spool.drain(active.ledger)
    assert first == SpoolResult(written=int(fails == "unlink"))
    assert await outcome_spool.drain(active.ledger) == SpoolResult(written=1)
    assert (await active.row()).status == "succeeded"
