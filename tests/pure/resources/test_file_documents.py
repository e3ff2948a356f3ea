"""Settings documents in jobs files: mistakes, secrets, the plan, the export and the schema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from daybook.agents import kinds
from daybook.api import file_documents as operations
from daybook.delivery import destinations
from daybook.delivery.channels import apprise
from daybook.errors import Mistake
from daybook.files.documents import to_yaml
from daybook.files.jobs_file import FileText, read_file
from daybook.http.secrets import Secret
from daybook.resources import file_documents
from daybook.resources.file_documents import DocumentStep, FilledDocument
from daybook.resources.store import BlockStore
from daybook.tools import server_blocks

CANARY = "sk-canary-0123456789abcdef"
AGENT = "agents:\n  - name: quick\n    model: openai:gpt-6-luna\n"
KEY = Secret("openai", CANARY, ("agent:quick",))


def fill(text: str, before: dict[str, Any] | None = None, *known: Secret) -> FilledDocument:
    [entry] = read_file(FileText("x.yaml", text), operations.nouns()).documents
    section = next(each for each in operations.sections().values() if each.noun == entry.noun)
    draft = file_documents.read(entry, section)
    assert draft is not None, entry.mistakes
    return file_documents.fill(draft, before, {each.name: each for each in known})


def plan(text: str, before: dict[str, Any] | None = None, *known: Secret) -> DocumentStep | None:
    filled = fill(text, before, *known)
    assert filled.draft.entry.mistakes == []
    stored = {} if before is None else {filled.draft.ref: before}
    return file_documents.compare(filled, stored, {})


def mistakes(text: str) -> list[Mistake]:
    found = read_file(FileText("x.yaml", text), operations.nouns())
    by_noun = {each.noun: each for each in operations.sections().values()}
    for entry in found.documents:
        draft = file_documents.read(entry, by_noun[entry.noun])
        if draft is not None:
            file_documents.fill(draft, None, {KEY.name: KEY})
    return [*found.mistakes, *(each for entry in found.documents for each in entry.mistakes)]


BROKEN: list[tuple[str, int, str, str]] = [
    # The text, then the line and field of its only mistake, and a part of its words.
    ("agents: {a: 1}\n", 1, "agents", "is not a list"),
    (f"channels:\n  - {CANARY}\n", 2, "channels", "is not a mapping"),
    ("agents:\n  - model: openai:x\n", 2, "name", "is missing"),
    ("agents:\n  - name: A B\n    model: openai:x\n", 2, "name", "lowercase letters"),
    ("agents:\n  - name: a\n", 2, "kind", "use one of: offline, command, model"),
    ("agents:\n  - name: a\n    kind: robot\n", 3, "kind", "is unknown"),
    ("agents:\n  - name: a\n    modl: x\n    kind: offline\n", 3, "modl", "unknown field"),
    (f"{AGENT}    request_limit: -1\n", 4, "request_limit", "greater than or equal to 0"),
    (f"{AGENT}    api_key: {CANARY}\n", 4, "api_key",
     'store it with `daybook secrets add NAME --host agent:quick`, and write "{{secret:NAME}}"'),
    (f"{AGENT}    api_key: x{{{{secret:openai}}}}\n", 4, "api_key", "not exactly one reference"),
    (f"{AGENT}    base_url: http://evil.example/v1\n    api_key: '{{{{secret:openai}}}}'\n", 5,
     "api_key", 'the secret "openai" is not for evil.example:80'),
    ("channels:\n  - name: ops\n", 2, "url", "is missing"),
    (f"channels:\n  - name: ops\n    url: ntfy://{CANARY}\n", 3, "url", "--host channel:ops"),
    ("destinations:\n  - name: a\n    url: https://a.example/\n    previous_until: x\n"
     "    secret: '{{secret:none}}'\n", 4, "previous_until", "unknown field"),
    (f"tool_servers:\n  - name: s\n    url: https://a.example/mcp\n"
     f"    headers: {{Authorization: Bearer {CANARY}}}\n", 4, "headers", "looks like a secret"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "field", "words"), BROKEN)
def test_each_mistake_names_line_field_problem_and_what_to_write(
    text: str, line: int, field: str, words: str
) -> None:
    found = mistakes(text)
    assert [(each.position.line, each.field) for each in found] == [(line, field)]
    assert words in str(found[0])
    assert CANARY not in str(found[0])


def test_a_reference_without_quotes_is_a_mistake_that_shows_the_quotes() -> None:
    found = mistakes(f"{AGENT}    api_key: {{{{secret:openai}}}}\n")
    assert 'write a reference in quotes, as "{{secret:name}}"' in str(found[0])


WITH_KEY = f"{AGENT}    api_key: '{{{{secret:openai}}}}'\n"


def test_the_plan_has_the_reference_and_never_the_secret() -> None:
    step = plan(WITH_KEY, None, KEY)
    assert step is not None
    assert [(each.field, each.new) for each in step.changes] == [
        ("model", "openai:gpt-6-luna"),
        ("api_key", "{{secret:openai}}"),
    ]
    assert CANARY not in repr(step.changes)


def test_an_unchanged_document_has_no_step() -> None:
    stored = {"model": "openai:gpt-6-luna", "api_key": CANARY}
    assert plan(WITH_KEY, stored, KEY) is None
    changed = plan(WITH_KEY, {**stored, "api_key": "sk-old", "request_limit": 3}, KEY)
    assert changed is not None
    assert {each.field: (each.old, each.new) for each in changed.changes} == {
        "api_key": ("********", "{{secret:openai}}"),
        "request_limit": (3, 0),
    }


def test_a_secret_that_is_not_in_the_file_keeps_its_value() -> None:
    assert plan(AGENT, {"model": "openai:gpt-6-luna", "api_key": CANARY}) is None
    cleared = plan(f"{AGENT}    api_key: ''\n", {"model": "openai:gpt-6-luna", "api_key": CANARY})
    assert cleared is not None
    assert [(each.field, each.old, each.new) for each in cleared.changes] == [
        ("api_key", "********", "")
    ]


def test_a_stored_secret_is_not_kept_for_another_url() -> None:
    stored = {"model": "openai:gpt-6-luna", "api_key": CANARY}
    moved = plan(f"{AGENT}    base_url: http://evil.example/v1\n", stored)
    assert moved is not None
    assert {each.field: each.new for each in moved.changes} == {
        "base_url": "http://evil.example/v1",
        "api_key": "",
    }


def test_a_missing_secret_is_named_with_its_command_and_the_stored_value_stays() -> None:
    text = f"{AGENT}    api_key: '{{{{secret:openai}}}}'\n"
    filled = fill(text)
    assert [str(each) for each in filled.missing] == [
        'x.yaml:4:14: agent quick: api_key: the secret "openai" does not exist on this machine '
        "(store it with `daybook secrets add openai --host agent:quick`)"
    ]
    stored = {"model": "openai:gpt-6-luna", "api_key": CANARY}
    kept = fill(text, stored)
    assert (len(kept.missing), plan(text, stored)) == (1, None)


DESTINATION = {
    "url": "https://ops.example.org/hook",
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "previous_secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYob7oD8S",
    "previous_until": "2126-01-01T00:00:00Z",
}


def test_a_rotation_goes_on_until_the_secret_changes() -> None:
    text = "destinations:\n  - name: ops\n    url: https://ops.example.org/hook\n"
    assert plan(text, DESTINATION) is None
    new = Secret("new", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", ("ops.example.org",))
    filled = fill(f"{text}    secret: '{{{{secret:new}}}}'\n", DESTINATION, new)
    assert filled.settings is not None
    assert filled.settings.model_dump()["previous_until"] is None


EXPORTED: list[tuple[BlockStore[Any], dict[str, Any], dict[str, Any]]] = [
    (kinds.OFFLINE, {}, {"kind": "offline"}),
    (
        kinds.MODEL,
        {"model": "openai:x", "api_key": CANARY},
        {"kind": "model", "model": "openai:x", "api_key": "{{secret:openai}}"},
    ),
    (
        server_blocks.STORE,
        {"url": "https://a.example/mcp", "headers": {"X-A": "{{secret:a}}"}},
        {"url": "https://a.example/mcp", "headers": {"X-A": "{{secret:a}}"}},
    ),
    (apprise.STORE, {"url": "ntfy://quick"}, {"url": "{{secret:channel-quick-url}}"}),
    (
        destinations.STORE,
        DESTINATION,
        {"url": DESTINATION["url"], "secret": "{{secret:destination-quick-secret}}"},
    ),
]


@pytest.mark.parametrize(("store", "data", "expected"), EXPORTED)
def test_an_export_has_references_and_fits_the_schema(
    store: BlockStore[Any], data: dict[str, Any], expected: dict[str, Any]
) -> None:
    fields, comments = file_documents.export(store, "quick", data, {}, {KEY.name: KEY})
    assert fields == {"name": "quick", **expected}
    text = to_yaml(fields) + "".join(comments)
    assert not any(secret in text for secret in (CANARY, "ntfy", "whsec_"))
    section = next(each for each in operations.sections().values() if store in each.stores)
    validator = jsonschema.Draft202012Validator(operations.schema())
    assert list(validator.iter_errors({section.name: [fields]})) == []
    assert list(validator.iter_errors({section.name: [{**fields, "odd": 1}]}))


def test_the_schema_refuses_a_literal_secret() -> None:
    validator = jsonschema.Draft202012Validator(operations.schema())
    assert list(validator.iter_errors({"channels": [{"name": "ops", "url": "ntfy://topic"}]}))
