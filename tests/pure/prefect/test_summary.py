"""The summary of a job in the description of its deployment, and the user's own description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from daybook.jobs.model import Job, new_job
from daybook.prefect.diff import Difference, compare, differing_fields
from daybook.prefect.projection import Projection
from daybook.prefect.summary import MAX_PROMPT_CHARACTERS, summary, without_summary
from daybook.testing import ManualClock

HOOK = "https://ops.example.org/hook?token=s3cr3t"


def job(**fields: Any) -> Job:
    now, given = ManualClock().now(), {"prompt": "Say so", "cron": "0 9 * * *", **fields}
    return new_job(now=now, default_timezone="UTC", **given)


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({}, ["Asks the agent `default`: `Say so`"]),
        (
            {"prompt": "What is new?\n\nBe  brief.", "agent": "claude"},
            ["Asks the agent `claude`: `What is new? Be brief.`"],
        ),
        (
            {"timeout": "10m", "retries": 0, "exclude": ["2026-12-24", "2026-12-25"]},
            [
                "Asks the agent `default`: `Say so`",
                "Policy: timeout 10m, retries 0, exclude 2026-12-24 and 2026-12-25",
            ],
        ),
        (
            {"check": {"command": ["true"]}, "idempotent": True},
            ["Asks the agent `default`: `Say so`", "Policy: idempotent, with a check"],
        ),
        (
            {"channel": "team", "chat_id": "12", "on_complete": HOOK, "on_fail": HOOK},
            [
                "Asks the agent `default`: `Say so`",
                "Notifies: the channel `team 12` (completed, failed), "
                "`https://ops.example.org/hook` (completed), "
                "`https://ops.example.org/hook` (failed)",
            ],
        ),
        (
            {"on_fail": HOOK, "events": ["failed", "missed"]},
            [
                "Asks the agent `default`: `Say so`",
                "Notifies: `https://ops.example.org/hook` (failed, missed)",
            ],
        ),
        (
            {"channel": "team", "silent": True},
            ["Asks the agent `default`: `Say so`", "Notifies: no recipient for now"],
        ),
        (
            {"prompt": None, "kind": "webhook", "url": HOOK},
            ["Calls `POST https://ops.example.org/hook`"],
        ),
        (
            {"prompt": None, "kind": "tool-call", "tool": "search.reindex", "retries": 2},
            ["Calls the tool `search.reindex`", "Policy: retries 2"],
        ),
        (
            {"prompt": None, "kind": "heartbeat"},
            ["Asks the agent `default` to follow the orders in `HEARTBEAT.md`"],
        ),
    ],
)
def test_a_summary_tells_what_a_job_does(fields: dict[str, Any], lines: list[str]) -> None:
    made = job(name="brief", **fields)
    assert summary(made).split("\n- ") == ["**brief** — at 09:00 every day, UTC", *lines]
    assert without_summary(summary(made)) == ""


def test_a_long_prompt_is_cut() -> None:
    shown = summary(job(prompt="x" * (MAX_PROMPT_CHARACTERS + 1)))
    assert shown.endswith(f"`{'x' * MAX_PROMPT_CHARACTERS}` …")
    assert not summary(job(prompt="x" * MAX_PROMPT_CHARACTERS)).endswith("…")


@pytest.mark.parametrize(
    "prompt",
    ["![x](http://evil.example/x.png)", "`` ![x](y) `", "`", "<img src=x>", "a\n\n**b** — ![x](y)"],
)
def test_a_prompt_is_shown_as_code(prompt: str) -> None:
    (_, *inline) = [
        token
        for token in MarkdownIt("commonmark").parse(summary(job(prompt=prompt)))
        if token.type == "inline"
    ]
    code = [child for token in inline for child in token.children or () if child.type != "text"]
    assert [child.type for child in code] == ["code_inline", "code_inline"]
    assert code[1].content == " ".join(prompt.split())


@pytest.mark.parametrize(
    "name",
    ["![x](http://evil.example/x.png)", "<img src=x>", "`a` **b**", "a\\![x](y)", "[a](http://b)"],
)
def test_a_name_is_shown_as_text(name: str) -> None:
    text = summary(job(name=name))
    line = next(each for each in MarkdownIt("commonmark").parse(text) if each.type == "inline")
    shown = [each for each in line.children or () if each.content or not each.type.startswith("st")]
    assert {each.type for each in shown} == {"text"}
    assert "".join(each.content for each in shown).startswith(f"{name} — ")
    assert without_summary(f"{text}\n\nWords") == "Words"
    after = summary(job(cron=None, after=name, work_dir=f"/{name}"))
    parsed = MarkdownIt("commonmark").parse(after)
    kinds = {token.type for each in parsed for token in each.children or ()}
    assert kinds <= {"text", "strong_open", "strong_close", "code_inline"}
    assert without_summary(f"{after}\n\nWords") == "Words"


WORDS = [
    "",
    "Plain",
    "**Report** — sends the numbers\n\nand more",
    "**Alone** — a line",
    "Two\n\nparts",
    "**Bold** first\n\nand more",
    "- Policy: a list\n- of mine",
]


@pytest.mark.parametrize("words", WORDS)
def test_the_users_description_is_read_back(words: str) -> None:
    text = summary(job(name="A **name** — with signs", channel="team", timeout="10m"))
    assert without_summary(f"{text}\n\n{words}".strip()) == words
    assert without_summary(words) == words


def test_text_right_below_the_summary_is_the_users() -> None:
    text = summary(job(name="brief"))
    assert without_summary(f"{text}\nMy words\n\nand more") == "My words\n\nand more"
    assert without_summary(f"{text}\n- my point") == "- my point"


A = Projection(
    enabled=True, schedule={}, parameters={}, tags=[], description="**a** — x\n- Calls `y`\n\nWords"
)


def test_a_changed_summary_is_sent_and_is_neither_an_edit_nor_a_conflict() -> None:
    changed = replace(A, description="**a** — y\n- Calls `z`\n\nWords")
    for ours, theirs, base in (
        (changed, A, A.as_dict()),
        (A, changed, A.as_dict()),
        (changed, A, None),
    ):
        assert compare(ours, base, theirs) == Difference()
        assert differing_fields(ours, theirs) == {"description"}


def test_an_edit_of_the_description_is_imported_although_the_summary_changed_in_the_ledger() -> (
    None
):
    ours = replace(A, description="**a** — y\n- Calls `z`\n\nWords")
    theirs = replace(A, description="**a** — x\n- Calls `y`\n\nNew words")
    assert compare(ours, A.as_dict(), theirs) == Difference(pull=("description",))
    both = replace(ours, description="**a** — y\n- Calls `z`\n\nOurs")
    expected = Difference(conflicts={"description": theirs.description})
    assert compare(both, A.as_dict(), theirs) == expected
