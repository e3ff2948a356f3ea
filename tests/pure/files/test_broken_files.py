"""Mistakes in jobs files: each with its line, column, field and what to write; all at once."""

from __future__ import annotations

from datetime import UTC, datetime

import jsonschema
import pytest

from daybook.errors import MAX_LISTED, InvalidFiles, Mistake
from daybook.files import plan
from daybook.files.documents import read
from daybook.files.jobs_file import FileText, job_fields, read_file
from daybook.files.schema import schema
from tests import rows

NOW = datetime(2026, 11, 25, 12, 0, 0, 250_000, UTC)
HEAD = "jobs:\n  - name: brief\n    prompt: Say hello.\n"


def mistakes(*texts: str) -> list[Mistake]:
    files = [read_file(FileText(f"{n}.yaml", text)) for n, text in enumerate(texts, start=1)]
    made = plan.make(files, [], "team", now=NOW, timezone="UTC")
    return list(InvalidFiles(made.mistakes).mistakes)


BROKEN: list[tuple[str, int, int, str, str]] = [
    # The text, then the line, column and field of its only mistake, and a part of its words.
    ("", 1, 1, "jobs", "write a mapping with `jobs`"),
    ("- name: a", 1, 1, "jobs", "write a mapping with `jobs`"),
    ("jobs: {a: 1}", 1, 7, "jobs", "write a mapping with `jobs`"),
    ("jobs:", 1, 6, "jobs", "write a mapping with `jobs`"),
    ("jobs: [\n  {name: a,\n", 3, 1, "", "is not YAML"),
    ("jobs:\n  - just words\n", 2, 5, "jobs", "'just words' is not a job"),
    ("job:\n  - x\njobs: []\n", 1, 1, "job", "did you mean jobs?"),
    ("set: [a]\njobs: []\n", 1, 6, "set", "is not a text"),
    (f"{HEAD}    every: 1h\n    every: 2h\n", 5, 5, "every", "already given in line 4"),
    ("jobs:\n  - prompt: Hello.\n    every: 1h\n", 2, 5, "name", "is missing"),
    ("jobs:\n  - name: ''\n    prompt: x\n    every: 1h\n", 2, 11, "name", "is missing"),
    ("jobs:\n  - name: 5\n    prompt: x\n    every: 1h\n", 2, 11, "name", "is not a string"),
    ("jobs:\n  - name: a\n    cron: * * * * *\n", 3, 12, "",
     'a value begins with * (put it in quotes, such as "* * * * *")'),
    ("jobs:\n  - name: a\n    cron: */5 * * * *\n", 3, 12, "", "a value begins with *"),
    ("jobs:\n  - name: a\n    cron: @daily\n", 3, 11, "",
     'a value begins with @ (put it in quotes, such as "@daily")'),
    ("jobs:\n  - name: a\n    prompt: `date`\n", 3, 13, "", "a value begins with `"),
    ("jobs:\n  - name: a\n    prompt: %A\n", 3, 13, "", "a value begins with %"),
    ("jobs:\n\t- name: a\n", 2, 1, "", "the indentation has a tab (use spaces)"),
    ("jobs:\n  - name: a\n\t  every: 1h\n", 3, 1, "", "the indentation has a tab (use spaces)"),
    ("jobs:\n  - name: a\n    prompt: Look: there\n", 3, 17, "", 'a value contains ": "'),
    ("jobs:\n  - name: a\n    every: 1h\n", 2, 5, "prompt", "is missing"),
    ("jobs:\n  - name: a\n    prompt: ' '\n    every: 1h\n", 3, 13, "prompt", "is blank"),
    (f"{HEAD}", 2, 5, "schedule", "is missing"),
    (f"{HEAD}    schedule: {{}}\n", 4, 15, "schedule", "set one of"),
    (f"{HEAD}    schedule: {{timezone: UTC}}\n", 4, 15, "schedule", "set one of"),
    (f"{HEAD}    schedule: sometimes\n", 4, 15, "schedule", "is not a schedule"),
    (f"{HEAD}    schedule: [1]\n", 4, 15, "schedule", "is not a string"),
    (f"{HEAD}    schedule: {{cron: 0 9 * * 1-8}}\n", 4, 22, "cron", "use 0 to 7"),
    (f"{HEAD}    schedule: {{crn: '@daily'}}\n", 4, 16, "crn", "did you mean cron?"),
    (f"{HEAD}    schedule: {{every: 5}}\n", 4, 23, "every", "5 has no unit (write one of 5s,"),
    (f"{HEAD}    schedule: {{every: 1h, at: 2127-01-01}}\n", 4, 23, "every and at", "only one"),
    (f"{HEAD}    schedule: {{every: 1h, timezone: Mars}}\n", 4, 37, "timezone", "Mars"),
    (f"{HEAD}    schedule: {{at: in 30m}}\n", 4, 20, "at", "depends on when the file is applied"),
    (f"{HEAD}    schedule: tomorrow at 9:00\n", 4, 15, "schedule", "write the time, such as 2026"),
    (f"{HEAD}    schedule: {{after: other}}\n", 4, 23, "after", 'unknown job "other"'),
    (f"{HEAD}    schedule: {{after: brieff}}\n", 4, 23, "after", 'did you mean "brief"?'),
    (f"{HEAD}    schedule: {{after: brief}}\n", 4, 23, "after", "cycle: brief → brief"),
    (f"{HEAD}    schedule: {{every: 1h, on: failed}}\n", 4, 31, "on", "needs a job to run after"),
    (f"{HEAD}    every: 1h\n    promt: x\n", 5, 5, "promt", "did you mean prompt?"),
    (f"{HEAD}    every: 1h\n    url: https://x.example\n", 3, 13, "prompt and url", "combined"),
    (f"{HEAD}    every: 1h\n    kind: email\n", 5, 11, "kind", "use agent-prompt"),
    (f"{HEAD}    every: 1h\n    method: GET\n", 5, 13, "method", "applies only to webhooks"),
    (f"{HEAD}    every: 1h\n    tags: no\n", 5, 11, "tags", "use a list of strings"),
    (f"{HEAD}    every: 1h\n    enabled: maybe\n", 5, 14, "enabled", "boolean"),
    (f"{HEAD}    every: 1h\n    policy: fast\n", 5, 13, "policy", "is not an object"),
    (f"{HEAD}    every: 1h\n    policy: {{timeout: 5}}\n", 5, 23, "timeout", "5 has no unit"),
    (f"{HEAD}    every: 1h\n    policy: {{retries: 99}}\n", 5, 23, "retries", "use 0 to 10"),
    (f"{HEAD}    every: 1h\n    policy:\n      overlp: skip\n", 6, 7, "overlp", "mean overlap?"),
    (f"{HEAD}    every: 1h\n    policy: {{delete_after_run: true}}\n", 5, 32, "delete_after_run",
     "due once"),
    (f"{HEAD}    every: 1h\n    policy: {{check: {{tool: a, prompt: b}}}}\n", 5, 21, "check",
     "use only one"),
    (f"{HEAD}    every: 1h\n    policy: {{check: {{tool: a, xyz: b}}}}\n", 5, 31, "xyz",
     "known: agent, command"),
    (f"{HEAD}    every: 1h\n    notify: {{chat_id: '7'}}\n", 5, 23, "chat_id", "needs a channel"),
    (f"{HEAD}    every: 1h\n    notify: {{events: [done]}}\n", 5, 22, "events", "'done'"),
    (f"{HEAD}    every: 1h\n    renamed_from: [a]\n", 5, 19, "renamed_from", "is not a text"),
    (f"{HEAD}    every: 1h\n    metadata: {{a: 99999999999999999999}}\n", 5, 15, "metadata",
     "more than 64 bits"),
    (HEAD.replace("hello", "{{weather}}") + "    every: 1h\n", 3, 13, "prompt", "unknown variable"),
    (HEAD.replace("hello", "{{output:x}}") + "    every: 1h\n", 3, 13, "prompt", 'unknown job "x"'),
    ("jobs:\n  - name: a\n    url: foo\n    every: 1h\n", 3, 10, "url", "is not a valid URL"),
]  # fmt: skip


def test_each_broken_file_has_one_mistake_with_its_position_and_what_to_write() -> None:
    assert len(BROKEN) >= 40
    for (text, line, column, field, words), trying in rows.each(BROKEN):
        with trying:
            (found,) = mistakes(text)
            position = (found.position.line, found.position.column)
            assert (*position, found.field) == (line, column, field), found
            assert words in str(found)
            assert str(found).startswith(f"1.yaml:{line}:{column}: ")


def test_all_mistakes_of_all_files_are_reported_at_once_in_order() -> None:
    first = (
        "jobs:\n"
        "  - name: a\n"
        "    schedule: {cron: '0 25 * * *', timezone: Mars}\n"
        "    promt: hi\n"
        "    policy: {timeout: 5, retries: 99, delete_after_run: true}\n"
        "    notify: {channel: 5, chat_id: '7'}\n"
        "  - name: b\n"
        "    url: foo\n"
        "    every: 5\n"
    )
    second = "jobs:\n  - {name: a, prompt: x, every: 1h}\n"
    found = [(each.file, each.position.line, each.field) for each in mistakes(first, second)]
    assert found == [
        ("1.yaml", 3, "cron"),
        ("1.yaml", 3, "timezone"),
        ("1.yaml", 4, "promt"),
        ("1.yaml", 5, "timeout"),
        ("1.yaml", 5, "retries"),
        ("1.yaml", 6, "channel"),
        ("1.yaml", 8, "url"),
        ("1.yaml", 9, "every"),
        ("2.yaml", 2, "name"),
    ]
    assert "the first is 1.yaml:2" in str(mistakes(first, second)[-1])


def test_a_mistake_whose_words_contain_the_name_of_a_wrong_field_is_reported_too() -> None:
    text = f"{HEAD}    schedule: {{every: 1h, on: failed}}\n    policy: {{timeout: 5}}\n"
    assert [each.field for each in mistakes(text)] == ["on", "timeout"]


def test_a_file_that_the_schema_refuses_has_a_mistake() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    refused = [text for text, *_ in BROKEN if not validator.is_valid(read(text).data)]
    assert len(refused) >= 15
    assert all(mistakes(text) for text in refused)


def test_job_fields_raises_all_mistakes() -> None:
    with pytest.raises(InvalidFiles, match="2 mistakes, so nothing was stored") as raised:
        job_fields(FileText("x.yaml", "jobs:\n  - 1\n  - prompt: x\n"))
    assert [each.position.line for each in raised.value.mistakes] == [2, 3]


def test_a_file_with_many_mistakes_has_a_short_message() -> None:
    long = "x" * 900
    jobs = "".join(f"  - name: a{number}\n    {long}: x\n" for number in range(200))
    found = InvalidFiles(mistakes(f"jobs:\n{jobs}"))
    lines = str(found).splitlines()
    count = len(found.mistakes)
    assert count >= 200
    assert lines[0] == f"file: {count} mistakes, so nothing was stored:"
    assert lines[-1] == f"… and {count - MAX_LISTED:,} more"
    assert (len(lines), len(str(found)) < 30_000) == (2 + MAX_LISTED, True)
