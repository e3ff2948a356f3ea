"""A jobs file with a webhook and a tool call."""

from __future__ import annotations

from daybook.clock import SYSTEM_CLOCK
from daybook.files.jobs_file import FileText, job_fields
from daybook.jobs.actions import ToolCall, Webhook
from daybook.jobs.model import new_job

FILE = """
jobs:
  - name: nightly-export
    kind: webhook
    schedule: {every: 6h}
    url: https://api.example.org/export
  - name: renew-index
    kind: tool-call
    schedule: {at: "2127-01-15T14:30:00+01:00"}
    tool: search.reindex
    params: {full: true, parts: [1, 2.5, null]}
"""


def test_a_jobs_file_with_a_webhook_and_a_tool_call_is_read() -> None:
    export, renew = (
        new_job(now=SYSTEM_CLOCK.now(), **fields)
        for fields in job_fields(FileText("jobs.yaml", FILE))
    )
    assert export.action == Webhook(url="https://api.example.org/export")
    assert renew.name == "renew-index"
    params = {"full": True, "parts": [1, 2.5, None]}
    assert renew.action == ToolCall(tool="search.reindex", params=params)
