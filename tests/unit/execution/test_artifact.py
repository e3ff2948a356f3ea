"""The artifact of a run in Prefect's UI: no images, no HTML, quotations that stay closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.execution import artifact, markdown
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import OutboxRow, StepRow
from daybook.markdown_limits import MAX_PARSED_CHARACTERS, MAX_TABLE_CELLS
from daybook.runs.claim_requests import Granted
from daybook.testing import ManualClock
from tests.world import World
from tests.world.runs import step_of

EVIL = "http://evil.example/x.png"


def _granted(prompt: str = "Hello?", agent: str = "default") -> Granted:
    parameters = {"prompt": prompt, "agent": agent}
    now, kind = ManualClock().now(), "agent-prompt"
    return Granted(
        "0123456789abcdef", 1, parameters, "flow:f", now, "direct", None, kind=kind, queued_at=now
    )


@pytest.mark.parametrize(
    "text",
    [
        f"![x]({EVIL})",
        f"!![x]({EVIL})",
        f"![x][ref]\n\n[ref]: {EVIL}",
        f"[![x]({EVIL})]({EVIL})",
    ],
)
def test_image_markup_is_removed_and_its_text_stays(text: str) -> None:
    assert "![" not in markdown.sanitize_markdown(text)
    assert EVIL in markdown.sanitize_markdown(text)  # the text stays


@pytest.mark.parametrize(
    "text", [f'<img src="{EVIL}">', "<script>", "</div>", "<!-- -->", "<?x?>", f"<{EVIL}>"]
)
def test_html_is_escaped(text: str) -> None:
    assert markdown.sanitize_markdown(text) == "&lt;" + text[1:]


@pytest.mark.parametrize("text", ["1 < 2", "a <- b", "x << 3", "# Title", "**so**", "a ! [b]"])
def test_harmless_text_is_unchanged(text: str) -> None:
    assert markdown.sanitize_markdown(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "```html\n<img src=x>\n\n![a](b)\n```",
        "~~~\n<b>\n~~~",
        "````\n```\n<b>\n```\n````",
        "- so:\n  ```\n  <b>\n  ```",
        "> ```rust\n> vec![1] as Vec<u8>\n> ```",
        "`List<String>` and ``a ` <b>``",
        "| a |\n|---|\n| `<b>` |",
        "`\ue0000;<b>`",
    ],
)
def test_code_is_unchanged(text: str) -> None:
    assert markdown.sanitize_markdown(text) == text
    assert markdown.sanitize_markdown(f"<i>\n\n{text}\n\n<i>") == f"&lt;i>\n\n{text}\n\n&lt;i>"


@pytest.mark.parametrize(
    "text",
    [
        "```\na\n```\n<img src=x>",
        "`a` <img src=x> `b`",
        "\\`<img src=x>`",
        "`` <img src=x> `",
        "`a\n<iframe src=x>`",
        "> `a\n> <img src=x>`",
        "| a | b |\n|---|---|\n| `x | <img src=x>` |",
        "```\na\n```~~~\n<img src=x>\n```",
        "<b `a>`<img src=x>`",
        "`a`\ue0000;<img src=x>",
        "`<b>` " + "[" * MAX_PARSED_CHARACTERS,
    ],
)
def test_html_that_only_looks_like_code_is_escaped(text: str) -> None:
    full_text = markdown.sanitize_markdown(text)
    assert not any(tag in full_text for tag in ("<i", "<b", "!["))
    assert full_text.replace("&lt;", "<") == text


def test_only_links_with_allowed_schemes_stay_links() -> None:
    for kept in ("[x](https://a.example)", "[x]( HTTP://a )", "[x](mailto:a@b)", "[a]: http://b"):
        assert markdown.sanitize_markdown(kept) == kept
    for text, sanitized in (
        ("[x](javascript:alert(1))", "[x] (javascript:alert(1))"),
        ("[x](\n<JavaScript:alert(1)>)", "[x] (\n<JavaScript:alert(1)>)".replace("<", "&lt;")),
        ("[x](&#106;avascript:alert(1))", "[x] (&#106;avascript:alert(1))"),
        ("[x](/jobs/1)", "[x] (/jobs/1)"),
        ("[a]: javascript:alert(1)\n\n[a]", "[a] : javascript:alert(1)\n\n[a]"),
        ("[a]:\n data:x\n\n[a]", "[a] :\n data:x\n\n[a]"),
        ("`[x](data:x)` [x](data:x)", "`[x](data:x)` [x] (data:x)"),
        ("`` ` [x](data:x)", "`` ` [x] (data:x)"),
    ):
        assert markdown.sanitize_markdown(text) == sanitized


def test_a_text_with_too_many_cells_of_tables_is_not_parsed() -> None:
    wide = "|".join("a" * 100) + "\n" + "|".join("-" * 100) + "\n" + "`<b>`\n" * MAX_TABLE_CELLS
    assert "<b>" not in markdown.sanitize_markdown(wide[:MAX_PARSED_CHARACTERS])
    assert markdown.shift_headings(f"# x\n\n{wide}"[:5_000]).startswith("# x")


@pytest.mark.parametrize(
    ("text", "shifted"),
    [
        ("# One\n\ntext\n## Two ##", "### One\n\ntext\n#### Two ##"),
        ("  ##### Five\n###### Six", "###### Five\n###### Six"),
        ("One\n===\nTwo\nlines\n---\n", "### One\n\n#### Two lines\n\n\n"),
        ("# One\r\ntext\r#\r", "### One\ntext\n###\n"),
        ("#tag\n\n    # code\n\n```\n# code\n```", None),
        ("> # a quote\n\n- # an item", None),
        ("# x\n" * MAX_PARSED_CHARACTERS, None),
    ],
)
def test_headings_of_an_answer_are_below_those_of_the_artifact(
    text: str, shifted: str | None
) -> None:
    assert markdown.shift_headings(text) == (text if shifted is None else shifted)


@given(st.text(st.sampled_from("# =-\n\r\t\\`>a1.")))
def test_any_headings_can_be_shifted(given_text: str) -> None:
    def levels(of: str) -> list[int]:
        tokens = markdown._tokens(of)
        return [
            int(each.tag[1]) for each in tokens if each.type == "heading_open" and not each.level
        ]

    before, after = levels(given_text), levels(markdown.shift_headings(given_text))
    assert after == [min(level + 2, 6) for level in before]


@pytest.mark.parametrize("text", ["plain", "```\ncode\n```", "   ````\nx", "a ``````` b", ""])
def test_a_text_cannot_close_its_fenced_block(text: str) -> None:
    first, *inside, last = markdown.fenced_block(text).split("\n")
    assert first == last + "text"
    assert "\n".join(inside) == text
    assert last not in text
    assert len(last) >= 3


def test_the_artifact_shows_a_summary_the_answer_and_the_prompt() -> None:
    outcome = Outcome(Status.SUCCEEDED, output="## Three things", agent="claude")
    assert artifact.render(_granted("What is new?"), outcome) == (
        "# direct call\n\n"
        "**succeeded** · requested 2026-01-15 12:00:00 UTC · direct · agent claude · run `01234567`"
        "\n\n"
        "## Answer\n\n#### Three things\n\n"
        "## Prompt\n\n```text\nWhat is new?\n```\n"
    )


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ("schedule", "due 2026-01-15 12:00:00 UTC · schedule · "),
        ("catch_up", "due 2026-01-15 12:00:00 UTC · catch up · "),
        ("manual", "requested 2026-01-15 12:00:00 UTC · by hand · "),
        ("mcp", "requested 2026-01-15 12:00:00 UTC · mcp · "),
    ],
)
def test_a_due_time_differs_from_the_time_of_a_request(trigger: str, expected: str) -> None:
    granted = replace(_granted(), trigger=trigger)
    assert expected in artifact.render(granted, Outcome(Status.SUCCEEDED, output="4"))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, None),
        (0.04, "took 0.0 s"),
        (2.71, "took 2.7 s"),
        (59.96, "took 1 minute"),
        (3_725.0, "took 1 hour 2 minutes 5 seconds"),
    ],
)
def test_the_duration_of_the_run_is_shown_if_it_is_known(
    seconds: float | None, expected: str | None
) -> None:
    outcome = Outcome(Status.SUCCEEDED, output="4")
    facts = artifact.render(_granted(), outcome, seconds=seconds).splitlines()[2].split(" · ")
    assert [each for each in facts if each.startswith("took")] == ([expected] if expected else [])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("address", "deployment_id", "expected"),
    [
        ("http://ui.example", "d1", "http://ui.example/deployments/deployment/d1"),
        (None, "d1", None),
        ("http://ui.example", None, None),
    ],
)
async def test_the_artifact_links_to_the_jobs_deployment(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    deployment_id: str | None,
    expected: str | None,
) -> None:
    monkeypatch.setattr(artifact, "ui_address", lambda: address)
    job = await world.jobs.add(cron="0 9 * * *")
    job.row.deployment_id = deployment_id
    page = artifact.render(replace(_granted(), job=job), Outcome(Status.SUCCEEDED, output="4"))
    assert ("deployments/deployment" in page) == (expected is not None)
    if expected:
        assert f" · [the job's deployment]({expected})\n" in page


def test_the_error_comes_before_the_output() -> None:
    outcome = Outcome(Status.FAILED, error="exit code 3", output="so far")
    lines = artifact.render(_granted(agent="<b>"), outcome).split("\n\n")
    assert lines[1].endswith("agent &lt;b> · run `01234567`")
    assert lines[2:5] == ["## What went wrong", "```text\nexit code 3\n```", "so far"]


@pytest.mark.parametrize(
    ("error", "reason", "expected"),
    [
        ("no answer", "no answer; it was sent, and its effect is unknown", "{reason}"),
        ("no answer", "the worker was stopped", "{error}\n{reason}"),
        ("no answer", "no answer", "{reason}"),
        (None, "the worker was stopped", "{reason}"),
        ("no answer", "", "{error}"),
    ],
)
def test_error_and_reason_are_both_shown_without_repetition(
    error: str | None, reason: str, expected: str
) -> None:
    outcome = Outcome(Status.UNKNOWN, error=error, reason=reason)
    lines = artifact.render(_granted(), outcome).split("\n\n")
    assert lines[3] == f"```text\n{expected.format(error=error, reason=reason)}\n```"


def test_a_tool_call_is_shown_in_fenced_blocks() -> None:
    granted = replace(
        _granted(), kind="tool-call", parameters={"tool": "<b>.tool", "params": {"a": f"```{EVIL}"}}
    )
    outcome = Outcome(Status.SUCCEEDED, output=f"![x]({EVIL})")
    lines = artifact.render(granted, outcome).split("\n\n")
    assert "tool &lt;b>.tool" in lines[1]
    assert lines[2:] == [
        "## Answer",
        f"```text\n![x]({EVIL})\n```",
        "## Parameters",
        f'````text\n{{\n  "a": "```{EVIL}"\n}}\n````\n',
    ]
    without = replace(_granted(), kind="tool-call", parameters={"tool": "t", "params": {}})
    assert "Parameters" not in artifact.render(without, outcome)


USAGE = {"requests": 2, "input_tokens": 1285, "output_tokens": 17, "cost_usd": 0.0001412}


def test_the_usage_is_shown_above_the_answer() -> None:
    outcome = Outcome(Status.SUCCEEDED, output="Yes.", agent="oa", model="gpt-6", usage=USAGE)
    lines = artifact.render(_granted(), outcome, 2).split("\n\n")
    assert lines[2:4] == [
        "2 attempts · model gpt-6 · 1,285 tokens in, 17 out · $0.000141",
        "## Answer",
    ]
    failed = Outcome(Status.FAILED, error="two requests, and no answer", usage=USAGE)
    assert "1,285 tokens in, 17 out · $0.000141" in artifact.render(_granted(), failed)


@pytest.mark.parametrize(
    ("usage", "attempts", "expected"),
    [
        (None, 1, ""),
        (None, 4, "4 attempts"),
        ({"input_tokens": None, "output_tokens": None, "cost_usd": None}, 1, "price unknown"),
        (
            {"input_tokens": 5, "output_tokens": 0, "cost_usd": 0.0},
            0,
            "5 tokens in, 0 out · $0.000000",
        ),
    ],
)
def test_unknown_usage_is_omitted(
    usage: dict[str, Any] | None, attempts: int, expected: str
) -> None:
    assert artifact.usage_line(Outcome(Status.SUCCEEDED, usage=usage), attempts) == expected


def test_the_name_of_the_model_is_sanitized() -> None:
    outcome = Outcome(Status.SUCCEEDED, model=f"![x]({EVIL})<img>", usage=USAGE)
    line = artifact.usage_line(outcome)
    assert "![" not in line
    assert "<img" not in line


def _row(**fields: Any) -> OutboxRow:
    given: dict[str, Any] = {
        "key": "run:r1:on_complete",
        "purpose": "callback",
        "event": "completed",
        "queue": "https://ops.example.org/hook",
        "address": "https://ops.example.org/hook?token=s3cr3t",
        "body": "{}",
        "next_at": ManualClock().now(),
        "created_at": ManualClock().now(),
    }
    return OutboxRow(**given | fields)


def test_the_delivery_has_a_line_per_row_and_no_query_string() -> None:
    rows = [
        _row(status="delivered", attempts=3),
        _row(status="pending", attempts=1, error="https://ops.example.org answered 500"),
        _row(purpose="message", address="team", chat_id="<b>", status="failed", error="![x](y)"),
    ]
    page = artifact.render(_granted(), Outcome(Status.SUCCEEDED, output="4"), rows=rows)
    assert page.partition("## Delivery\n\n")[2].splitlines() == [
        "- callback to https://ops.example.org/hook: **delivered**, tried 3 times",
        "- callback to https://ops.example.org/hook: **pending**, next try 2026-01-15 12:00:00 "
        "UTC; https://ops.example.org answered 500",
        "- message to team &lt;b>: **failed**; [image: x] (y)",
    ]


def test_without_outbox_rows_there_is_no_delivery_section() -> None:
    page = artifact.render(_granted(), Outcome(Status.SUCCEEDED, output="4"))
    assert "Delivery" not in page


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        (
            Outcome(Status.SUCCEEDED, output="Three are open.\n\nMore.", model="m", usage=USAGE),
            [
                "succeeded · agent a · model m · 1,285 tokens in, 17 out · $0.000141",
                "Three are open.",
            ],
        ),
        (
            Outcome(Status.FAILED, "gave up", error="exit code 1"),
            ["failed · agent a", "exit code 1"],
        ),
        (Outcome(Status.CANCELLED, "by the user"), ["cancelled · agent a", "by the user"]),
        (Outcome(Status.SUCCEEDED, output=""), ["succeeded · agent a"]),
        (
            Outcome(Status.FAILED, error="exit code 1", output="Until then: 4"),
            ["failed · agent a", "exit code 1", "Until then: 4"],
        ),
    ],
)
def test_the_log_of_a_run_has_its_facts_and_the_beginning_of_the_answer(
    outcome: Outcome, lines: list[str]
) -> None:
    logged = artifact.log_lines(_granted(agent="a"), outcome).splitlines()
    assert logged[: len(lines)] == lines
    timed = artifact.log_lines(_granted(agent="a"), outcome, seconds=2.345).splitlines()
    assert timed[0].startswith(f"{outcome.status} · agent a · 2.3 s")


@pytest.mark.parametrize("output", ["line\n" * 11, "x" * (artifact.MAX_LOGGED_CHARACTERS + 1)])
def test_a_long_answer_is_cut_in_the_log(output: str) -> None:
    logged = artifact.log_lines(_granted(agent="a"), Outcome(Status.SUCCEEDED, output=output))
    assert len(logged) < artifact.MAX_LOGGED_CHARACTERS + 100
    assert logged.endswith("\n… (continues in the run's output)")


def test_the_log_and_the_artifact_of_a_webhook_omit_the_query_of_its_url() -> None:
    url = "https://api.example.org/x?token=s3cr3t"
    granted = replace(_granted(), kind="webhook", parameters={"url": url, "method": "POST"})
    outcome = Outcome(Status.SUCCEEDED, output="ok")
    for text in (artifact.log_lines(granted, outcome), artifact.render(granted, outcome)):
        assert "POST https://api.example.org/x" in text
        assert "s3cr3t" not in text


def test_the_steps_have_a_line_each_without_their_texts_and_sanitized() -> None:
    granted, now = _granted(), ManualClock().now()
    step = step_of(
        granted.run_id,
        now,
        name=f"![gpt]({EVIL})",
        status="succeeded",
        finished_at=now + timedelta(seconds=2),
        usage={"input_tokens": 1_234, "output_tokens": 5},
        input="the input",
        output="the output",
    )
    call = {"position": "1.1", "kind": "tool", "name": "mail", "status": "failed"}
    failed = StepRow(
        **step.model_dump() | call | {"usage": None, "error": "no\n<b>address", "replaced": True}
    )
    shown = artifact.render(granted, DONE, steps=[step, failed])
    lines = shown.partition("## Steps\n\n")[2].splitlines()
    assert lines == [
        f"- 1 asked [image: gpt]({EVIL}): **succeeded**, 2.0 s, 1,234 tokens in, 5 out",
        "- 1.1 called mail: **failed**, 2.0 s, replaced; no &lt;b>address",
    ]
    assert "the input" not in shown and "the output" not in shown

    many = artifact.render(granted, DONE, steps=[step] * (artifact.MAX_STEPS + 7))
    assert many.endswith("- … 7 more\n")


DONE = Outcome(Status.SUCCEEDED, output="Done.")
