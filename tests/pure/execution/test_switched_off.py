"""Runs that are not executed: the verdict, and the description in the log."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.errors import DaybookError
from daybook.execution import switched_off
from daybook.execution.checks import Verdict
from daybook.home import Home
from daybook.jobs.model import normal_parameters
from daybook.runs.claim_requests import Granted
from tests.rows import each

SECRET = "{{secret:key}}"
NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


def granted(kind: str, parameters: dict[str, Any], **more: Any) -> Granted:
    given = dict(normal_parameters(kind, parameters))
    return Granted("r", 1, given, "flow:1", NOW, "manual", None, kind=kind, queued_at=NOW, **more)


def described(kind: str, parameters: dict[str, Any], **more: Any) -> str:
    return switched_off.describe(kind, granted(kind, parameters, **more))


@pytest.mark.floor("B", "No handler: the log says what would have been done")
def test_a_run_is_described_by_what_it_would_do(daybook_home: Home) -> None:
    asked = {"agent": "default", "session": "reuse", "output_format": "text"}
    rows: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("agent-prompt", {"prompt": "Since {{last_output}}"}, {"prompt": "Since noon", **asked}),
        (
            "agent-prompt",
            {"prompt": "{{job}}"},
            {"prompt": "{{job}}", **asked, "error": "prompt: is blank after its variables are"},
        ),
        (
            "webhook",
            {"url": "https://a.example/x?token=1", "headers": {"X-Key": SECRET}},
            {
                "url": "https://a.example/x",
                "method": "POST",
                "headers": {"X-Key": "{{secret:key}}"},
            },
        ),
        (
            "tool-call",
            {
                "tool": "search.reindex",
                "params": {"full": True},
                "policy": {"check": {"tool": "x"}},
            },
            {"tool": "search.reindex", "params": {"full": True}, "check": {"tool": "x"}},
        ),
    ]
    for (kind, parameters, expected), trying in each(rows):
        with trying:
            first, _, text = described(kind, parameters, last_output="noon").partition("\n")
            assert first.startswith("Execution is switched off, so nothing was done.")
            found = json.loads(text)
            found["error"] = found.get("error", "")[:40]
            assert found == {"kind": kind, "error": "", **expected}


def test_a_long_description_is_cut(daybook_home: Home) -> None:
    assert len(described("agent-prompt", {"prompt": "x" * 20_000})) < 8_200


def test_a_run_of_such_a_kind_is_skipped_and_one_that_had_an_attempt_fails(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switched_off, "get_run_logger", logging.getLogger)  # no flow runs here
    monkeypatch.setenv("DAYBOOK_EXECUTION_OFF", "agent-prompt")
    first = granted("agent-prompt", {"prompt": "x"})
    assert switched_off.verdict("agent-prompt", first) == Verdict(False, switched_off.REASON)
    with pytest.raises(DaybookError, match="execution is switched off"):
        switched_off.verdict("agent-prompt", replace(first, attempts=1))
    call = granted("webhook", {"url": "https://a.example"}, attempts=1)
    assert switched_off.verdict("webhook", call).opens
