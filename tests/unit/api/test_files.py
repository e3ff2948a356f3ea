"""Jobs files: apply, drift and export, on both databases, without Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import col, select, update

from daybook import Client
from daybook.api import files, jobs
from daybook.diagnosis import findings
from daybook.errors import InvalidFiles, InvalidInput, PrefectUnreachable
from daybook.files.documents import read, to_yaml
from daybook.files.jobs_file import FileText
from daybook.home import Home
from daybook.jobs import store
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.owners import Actor, acting_as
from daybook.resources import copies
from tests.costs import examples
from tests.databases import Database

BRIEF: dict[str, Any] = {"name": "brief", "prompt": "Sum up.", "schedule": {"every": "1h"}}
AFTER: dict[str, Any] = {"name": "check", "prompt": "{{output:brief}}", "after": "brief"}


@pytest.fixture(autouse=True)
def ledger(daybook_home: Home, database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Use a ledger of each kind."""
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", database.address)
    return database


async def apply(*given: dict[str, Any], **options: Any) -> files.ApplyReport:
    text = to_yaml({"jobs": list(given)})
    return await files.apply([FileText("x.yaml", text)], **{"set_name": "team", **options})


def changes(report: files.ApplyReport) -> list[tuple[str, str]]:
    return [(each.action, each.job) for each in report.changes]


async def exported() -> str:
    return (await files.export())[0]


async def writes() -> tuple[int, list[Any]]:
    """Return what each write of a job changes: the revisions, and the jobs' times."""
    async with open_ledger() as ledger, ledger.read() as session:
        revisions = (await session.execute(select(RevisionRow.job_id))).all()
        rows = (await session.execute(select(JobRow.id, JobRow.updated_at, JobRow.owner))).all()
        return len(revisions), sorted(map(tuple, rows))


@pytest.mark.dialect
async def test_apply_adds_changes_leaves_alone_and_removes() -> None:
    dry = await apply(BRIEF, AFTER, dry_run=True)
    assert (changes(dry), dry.pending) == ([("add", "brief"), ("add", "check")], [])
    assert await jobs.list_jobs() == []
    first = await apply(AFTER, BRIEF)  # the order does not matter
    assert first.pending == ["brief", "check"]
    added = await jobs.show("brief")
    assert (added.owner, added.created_by, added.sync) == ("file:team", "cli", "pending")
    before = await writes()
    again = await apply(BRIEF, AFTER)
    assert (changes(again), again.unchanged) == ([], 2)
    assert await writes() == before
    changed = await apply({**BRIEF, "policy": {"timeout": "5m"}}, AFTER)
    (change,) = changed.changes
    assert [(each.field, each.old, each.new) for each in change.changes] == [
        ("timeout", "30m", "5m")
    ]
    assert (await jobs.show("brief")).id == added.id
    kept = await apply(BRIEF)
    assert (changes(kept), kept.notes) == (
        [("change", "brief")],
        ["not in the files any more, and kept without --prune: check"],
    )
    pruned = await apply(BRIEF, prune=True)
    assert changes(pruned) == [("remove", "check")]
    assert [each.name for each in await jobs.list_jobs()] == ["brief"]
    assert (await jobs.show("check")).removed_at is not None


async def test_a_one_time_job_that_its_run_has_removed_is_left_out() -> None:
    once = {"name": "once", "prompt": "x", "at": "2020-01-01T09:00"}
    report = await apply({**once, "policy": {"delete_after_run": True}}, BRIEF)
    assert changes(report) == [("add", "brief")]
    assert report.notes[0] == "not added, because their only due times have passed: once"
    with pytest.raises(InvalidFiles, match='unknown job "once"'):
        await apply({**once, "delete_after_run": True}, {**AFTER, "after": "once"}, BRIEF)


async def test_jobs_whose_due_times_have_passed_are_added_and_stay_as_they_are() -> None:
    due = "2020-01-01T09:00:00+00:00"
    once = {"name": "once", "prompt": "x", "schedule": {"at": due, "timezone": "Etc/UTC"}}
    off = {**once, "name": "off", "enabled": False}
    old = {"name": "old", "prompt": "x", "cron": "0 9 * * *", "policy": {"until": "2020-06-01"}}
    report = await apply(once, off, old)
    assert changes(report) == [("add", "once"), ("add", "off"), ("add", "old")]
    assert report.notes[0] == "disabled, because their only due times have passed: once"
    shown = {each.name: each for each in await jobs.list_jobs()}
    assert [(shown[name].enabled, shown[name].next_due) for name in ("once", "off", "old")] == [
        (False, []),
        (False, []),
        (True, []),
    ]
    assert (await jobs.show("once")).disabled_reason == store.PASSED_REASON

    again = await apply(once, off, old)
    assert (changes(again), again.unchanged) == ([], 3)
    _, document = await files.export(["once", "off", "old"])
    for name in ("once", "off", "old"):
        await jobs.remove(name)
    moved = await apply(*document["jobs"], set_name="moved")
    assert len(moved.changes) == 3


async def test_an_export_can_be_applied_after_a_job_that_it_names_was_removed() -> None:
    await apply(BRIEF, AFTER)
    await jobs.remove("brief")
    text = await exported()
    report = await files.apply([FileText("x.yaml", text)], set_name="team")
    assert (changes(report), report.unchanged) == ([], 1)
    with pytest.raises(InvalidFiles, match='unknown job "brief"'):
        await apply({**AFTER, "name": "new"})


async def test_prune_removes_only_jobs_of_its_own_set() -> None:
    await jobs.add({"name": "mine", "prompt": "x", "every": "1h"})
    await apply({**BRIEF, "name": "theirs"}, set_name="other")
    await apply(BRIEF)
    assert changes(await apply(prune=True)) == [("remove", "brief")]
    assert [each.name for each in await jobs.list_jobs()] == ["mine", "theirs"]


@pytest.mark.dialect
async def test_after_an_error_in_the_middle_nothing_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await apply(BRIEF, {**BRIEF, "name": "old"})
    before, text = await writes(), await exported()
    add, count = store.add, 0

    async def fails(*given: Any, **more: Any) -> store.StoredJob:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError("killed")
        return await add(*given, **more)

    monkeypatch.setattr(store, "add", fails)
    wanted = [{**BRIEF, "prompt": "y"}, *({**BRIEF, "name": each} for each in "abc")]
    with pytest.raises(OSError, match="killed"):
        await apply(*wanted, prune=True)
    assert (await writes(), await exported()) == (before, text)
    monkeypatch.undo()


async def test_a_mistake_in_one_job_stores_none() -> None:
    there = {"name": "there", "url": "http://169.254.169.254/x", "every": "1h"}
    typo = {**BRIEF, "name": "typo", "promt": "x"}
    with pytest.raises(InvalidFiles) as raised:
        await apply(BRIEF, there, typo)
    found = [(each.job, each.field, each.position.line) for each in raised.value.mistakes]
    # What the check of addresses finds is reported with the rest.
    assert found == [("there", "url", 7), ("typo", "promt", 13)]
    assert await jobs.list_jobs() == []


async def test_a_renamed_job_keeps_its_history_and_its_followers() -> None:
    await apply(BRIEF, AFTER)
    old = await jobs.show("brief")
    await jobs.add({"name": "mine", "prompt": "x", "after": "brief"})
    renamed = {**BRIEF, "name": "digest", "renamed_from": "brief"}
    after = {**AFTER, "after": "digest", "prompt": "{{output:digest}}"}
    report = await apply(renamed, after)
    assert [(each.job, each.renamed_from) for each in report.changes] == [
        ("digest", "brief"),
        ("check", ""),
    ]
    assert (await jobs.show("digest")).id == old.id
    assert (await jobs.show("mine")).words == "after digest succeeds"
    assert await files.drift() == []
    assert changes(await apply(renamed, after)) == []


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ([{**BRIEF, "name": "new", "renamed_from": "brief"}, BRIEF], "renamed_from", "another job"),
        ([{**BRIEF, "name": "check", "renamed_from": "brief"}], "renamed_from", "exist"),
        ([{**BRIEF, "name": "mine"}], "name", "belongs to user (it differs in schedule, prompt"),
        ([{"name": "brief", "url": "https://x.example", "every": "1h"}], "kind", "cannot be"),
        ([{**BRIEF, "after": "check", "schedule": None}, AFTER], "after", "in a cycle"),
    ],
)
async def test_what_does_not_fit_the_ledger_is_a_mistake(
    given: list[dict[str, Any]], field: str, words: str
) -> None:
    await apply(BRIEF, AFTER)
    await jobs.add({"name": "mine", "prompt": "x", "every": "2h"})
    before = await writes()
    with pytest.raises(InvalidFiles) as raised:
        await apply(*given)
    assert raised.value.mistakes[0].field == field
    assert words in str(raised.value)
    assert await writes() == before


async def test_a_job_of_the_user_is_left_alone_if_equal_and_adopted_on_request() -> None:
    mine = await jobs.add({"name": "brief", "prompt": "Sum up.", "every": "1h"})
    assert changes(await apply(BRIEF)) == []
    assert (await jobs.show("brief")).owner == "user"
    report = await apply({**BRIEF, "tags": ["team"]}, adopt=True)
    fields = [(each.field, each.old, each.new) for each in report.changes[0].changes]
    assert fields == [("owner", "user", "file:team"), ("tags", [], ["team"])]
    adopted = await jobs.show("brief")
    assert (adopted.id, adopted.owner, adopted.tags) == (mine.id, "file:team", ["team"])


async def test_a_change_elsewhere_is_drift_until_the_next_apply_overwrites_it() -> None:
    await apply(BRIEF, AFTER)
    assert await files.drift() == []
    async with open_ledger() as ledger, ledger.read() as session:
        assert await store.edited_since_applied(session) == []
    await jobs.edit_job("brief", {"timeout": "5m", "tags": ["x"]})
    await jobs.add({"name": "mine", "prompt": "x", "every": "2h"})
    await jobs.edit_job("mine", {"every": "3h"})
    (drifted,) = await files.drift()
    assert (drifted.job, drifted.set) == ("brief", "team")
    assert [(each.field, each.old, each.new) for each in drifted.changes] == [
        ("tags", [], ["x"]),
        ("timeout", "30m", "5m"),
    ]
    assert await files.drift(["check"]) == []
    async with open_ledger() as ledger, ledger.read() as session:
        (finding,) = findings.drift(await store.edited_since_applied(session))
    assert "brief (tags, timeout)" in finding.message
    report = await apply(BRIEF, AFTER)
    assert [each.field for each in report.changes[0].overwrites] == ["tags", "timeout"]
    assert await files.drift() == []


async def test_a_paused_job_stays_paused_until_its_file_changes_that() -> None:
    await apply(BRIEF)
    await jobs.pause("brief", "on holiday")
    assert await files.drift() == []
    for written, is_enabled in [
        (BRIEF, False),
        ({**BRIEF, "prompt": "y"}, False),
        ({**BRIEF, "enabled": True}, False),
        ({**BRIEF, "enabled": False}, False),
        (BRIEF, True),
        ({**BRIEF, "enabled": False}, False),
    ]:
        await apply(written)
        assert (await jobs.show("brief")).enabled is is_enabled
    assert (await jobs.show("brief")).disabled_reason == "disabled in file:team"


async def test_a_job_that_was_due_once_stays_as_it_ended() -> None:
    once = {"name": "once", "prompt": "x", "at": "2127-01-01T09:00:00+00:00"}
    await apply(once)
    past = {"kind": "at", "at": "2026-01-01T09:00:00Z", "timezone": "UTC"}
    async with open_ledger() as ledger, ledger.write() as session:
        await session.execute(update(RevisionRow).values(schedule=past, enabled=False))
        await session.execute(update(JobRow).values(disabled_reason="fired, succeeded"))
    ended = {**once, "at": "2026-01-01T09:00:00+00:00", "timezone": "UTC"}
    assert changes(await apply(ended)) == []
    assert (await jobs.show("once")).enabled is False
    assert changes(await apply(once)) == [("change", "once")]
    assert (await jobs.show("once")).enabled is True


async def test_apply_needs_a_set_a_person_and_for_wait_prefect() -> None:
    with pytest.raises(InvalidInput, match="set: is missing"):
        await apply(BRIEF, set_name=None)
    with pytest.raises(InvalidInput, match="is not a name of a set"):
        await apply(BRIEF, set_name="a b")
    two = [FileText(name, f"set: {name}\njobs: []") for name in ("a", "b")]
    with pytest.raises(InvalidInput, match="the files name several sets: a, b"):
        await files.apply(two)
    assert (await files.apply(two[:1], default_set="c")).set == "a"
    with acting_as(Actor("agent:cleo", via="mcp")), pytest.raises(InvalidInput, match="agent"):
        await apply(BRIEF)
    with pytest.raises(PrefectUnreachable):
        await apply(BRIEF, wait=True)
    assert await jobs.list_jobs() == []
    await apply(BRIEF)
    with pytest.raises(PrefectUnreachable):
        await apply(prune=True, wait=True)
    assert [each.name for each in await jobs.list_jobs()] == ["brief"]


async def test_an_export_has_comments_references_to_secrets_and_no_agents_jobs() -> None:
    await jobs.add({"name": "brief", "prompt": "x", "every": "1h", "tags": ["a"]})
    await jobs.pause("brief", "on holiday")
    with acting_as(Actor("agent:cleo", via="mcp")):
        await jobs.add({"name": "hers", "prompt": "x", "every": "1h", "agent": "default"})
    await jobs.add({"name": "hook", "url": "https://api.example.org/x", "every": "1d"})
    secret = "Bearer 0123456789abcdef"
    async with open_ledger() as ledger, ledger.write() as session:
        hook = await store.find(session, "hook")
        action = hook.job.action.model_copy(update={"headers": {"Authorization": secret}})
        job = hook.job.model_copy(update={"action": action})
        await store.change(session, hook, job, ledger.now(), source="prefect")
    text, document = await files.export()
    assert secret not in text
    assert read(text).data == document
    assert [each["name"] for each in document["jobs"]] == ["brief", "hook"]
    assert document["jobs"][1]["headers"] == {"Authorization": "{{secret:hook-authorization}}"}
    assert text.startswith("# yaml-language-server: $schema=jobs.schema.json\n")
    for comment in ("It belongs to user.", "It is disabled: paused: on holiday", "counts from"):
        assert comment in text
    assert "store it with `daybook secrets add hook-authorization --host HOST`" in text
    with pytest.raises(InvalidInput, match="hers belongs to agent:cleo"):
        await files.export(["hers"])


_NAMES = ("a", "b", "c", "d")
_SCHEDULES = st.sampled_from(
    [
        {"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
        {"every": "1h"},
        {"every": "2h"},
        {"at": "2127-01-15T14:30:00+01:00", "timezone": "Asia/Kolkata"},
        {"on_demand": True},
        "every weekday at 9:00",
    ]
)
_MORE: dict[str, st.SearchStrategy[Any]] = {
    "description": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    "tags": st.lists(st.sampled_from(["no", "1e3", "team"]), unique=True),
    "enabled": st.booleans(),
    "metadata": st.dictionaries(st.sampled_from(["x", "on"]), st.none() | st.integers(0, 9)),
    "policy": st.fixed_dictionaries(
        {},
        optional={
            "timeout": st.sampled_from(["90s", "1h30m"]),
            "overlap": st.sampled_from(["skip", "queue_all"]),
            "class": st.sampled_from(["light", "medium"]),
            "quiet_hours": st.sampled_from([[], ["12:00-13:00"]]),
            "deadline": st.sampled_from(["", "5h"]),
            "check": st.sampled_from([{"command": ["true"]}, {"prompt": "New mail?"}]),
        },
    ),
    "notify": st.fixed_dictionaries(
        {},
        optional={"channel": st.just("inbox"), "silent": st.booleans(), "progress": st.just("5m")},
    ),
}
_ACTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "a": {"prompt": st.sampled_from(["Sum up.", "One.\n  Two: yes\n", "{{output:b}}"])},
    "b": {"prompt": st.just("x"), "output_format": st.sampled_from(["text", "json"])},
    "c": {"tool": st.just("t"), "params": st.sampled_from([{}, {"n": 1.5, "on": [None, "no"]}])},
    "d": {"kind": st.just("heartbeat"), "file": st.sampled_from(["HEARTBEAT.md", "x.md"])},
}


@st.composite
def job_sets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw a set of jobs; `b` is in each, because the prompt of `a` may name it."""
    chosen = {"b", *draw(st.sets(st.sampled_from(_NAMES)))}
    return [
        {
            "name": name,
            "schedule": draw(_SCHEDULES),
            **draw(st.fixed_dictionaries(_ACTIONS[name], optional=_MORE)),
        }
        for name in sorted(chosen, reverse=True)
    ]


@settings(
    max_examples=examples(30),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=job_sets(), second=job_sets())
async def test_a_b_a_ends_where_it_began_and_applying_an_export_changes_nothing(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    async with open_ledger() as ledger, ledger.write() as session:
        live = col(JobRow.archived_at).is_(None)
        await session.execute(update(JobRow).where(live).values(archived_at=ledger.now()))
    await apply(*first)
    at_first = await exported()
    await apply(*second, prune=True)
    report = await apply(*second, prune=True)
    assert report.changes == []
    await apply(*first, prune=True)
    text = await exported()
    assert read(text).data == read(at_first).data
    before = await writes()
    report = await files.apply([FileText("export", text)], prune=True)
    assert (report.set, report.changes, report.unchanged) == ("team", [], len(first))
    assert await writes() == before
    assert await files.drift() == []


async def test_the_clients_apply_compare_and_export(tmp_path: Path) -> None:
    client = Client()
    report = await client.apply(to_yaml({"jobs": [BRIEF]}), set_name="team")
    assert changes(report) == [("add", "brief")]
    assert await client.diff() == []
    await client.update("brief", prompt="Mine.")
    (drift,) = await client.diff("brief")
    assert [each.field for each in drift.changes] == ["prompt"]

    folder = tmp_path / "team"
    folder.mkdir()
    (folder / "jobs.yaml").write_text(await client.export("brief"))
    (folder / "jobs.schema.json").write_text("{}")
    assert (await client.apply(folder, dry_run=True)).changes == []
    (folder / "more.yaml").write_text(to_yaml({"jobs": [AFTER]}))
    assert changes(await client.apply(folder)) == [("add", "check")]

    with pytest.raises(InvalidFiles) as refused:
        await client.apply("jobs:\n  - {name: a, prompt: Hi, every: 5}\n", set_name="team")
    (mistake,) = refused.value.mistakes
    assert (mistake.position.line, mistake.position.column, mistake.field) == (2, 34, "every")
    with pytest.raises(InvalidInput, match="add --set NAME"):
        await client.apply("jobs: []\n")
    with pytest.raises(InvalidInput, match=r"none\.yaml cannot be read"):
        await client.apply(tmp_path / "none.yaml")
    with pytest.raises(InvalidInput, match="agent"):
        await Client(agent="cleo").apply(folder)


@pytest.mark.dialect
async def test_settings_documents_need_prefect_and_without_it_no_job_is_stored() -> None:
    text = to_yaml({"agents": [{"name": "calm", "kind": "offline"}], "jobs": [BRIEF]})
    with pytest.raises(PrefectUnreachable):
        await files.apply([FileText("x.yaml", text)], set_name="team")
    assert await jobs.list_jobs() == []


async def test_an_export_has_the_copies_and_names_those_that_are_left_out(
    daybook_home: Home,
) -> None:
    await apply(BRIEF)
    job = (await jobs.show("brief")).id
    secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
    documents: dict[tuple[str, str], dict[str, Any]] = {
        ("daybook-offline-agent", "calm"): {"capabilities": ["read"]},
        ("daybook-hook", "merged"): {"job": job, "secret": secret},
        ("daybook-hook", "lost"): {"job": "gone", "secret": secret},
        ("daybook-channel", "odd"): {"url": "canary"},
    }
    async with open_ledger() as ledger, ledger.write() as session:
        key = await copies.get_or_create_key(session, daybook_home)
        for ref, data in documents.items():
            await copies.put(session, ref, "type", data, key=key, now=ledger.now())
    text, document = await files.export()
    assert document["agents"] == [{"name": "calm", "kind": "offline", "capabilities": ["read"]}]
    assert document["hooks"] == [
        {"name": "merged", "job": "brief", "secret": "{{secret:hook-merged-secret}}"}
    ]
    assert '# left out: hook: "lost" names a job that was removed' in text
    assert '# left out: channel: "odd" is invalid: url' in text
    assert "`daybook secrets add hook-merged-secret --host hook:merged`" in text
    assert not any(each in text for each in (secret, "canary"))
    assert "agents" not in read((await files.export(["brief"]))[0]).data
