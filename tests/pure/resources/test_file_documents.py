"""Settings documents in jobs files: mistakes, secrets, the plan, the export and the schema."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
from pydantic import SecretStr

from daybook import markers
from daybook.agents import kinds
from daybook.api import agents
from daybook.api import file_documents as operations
from daybook.delivery import destinations
from daybook.delivery.channels import apprise
from daybook.errors import ChangedMeanwhile, InvalidInput, Mistake
from daybook.files.documents import to_yaml
from daybook.files.jobs_file import FileText, read_file
from daybook.http.secrets import Secret
from daybook.keeper import blocks
from daybook.resources import file_documents
from daybook.resources.file_documents import DocumentStep, FilledDocument
from daybook.resources.store import BlockStore, block_data
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


SLACK_TOKENS = {"token": "xoxb-1-a", "app_token": "xapp-1-a"}
SERVERS: dict[str, dict[str, Any]] = {
    "daybook-model-agent": {
        "model": "openai:x",
        "base_url": "https://a.example",
        "api_key": CANARY,
    },
    "daybook-destination": {
        "url": "https://a.example/",
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    },
    "daybook-telegram": {"token": "123:AAE", "api_url": "https://a.example"},
    "daybook-slack": {**SLACK_TOKENS, "api_url": "https://a.example"},
    "daybook-mailbox": {
        "address": "daybook@example.org",
        "password": CANARY,
        "imap_host": "imap.example.org",
        "smtp_host": "smtp.example.org",
        "imap_port": 1993,
        "smtp_port": 1465,
    },
}
"""Valid settings of each kind whose secrets are sent to a server, by slug."""


def filled_with(
    store: BlockStore[Any], given: dict[str, Any], before: dict[str, Any], *known: Secret
) -> FilledDocument:
    section = next(each for each in operations.sections().values() if store in each.stores)
    return fill(to_yaml({section.name: [{"name": "quick", **given}]}), before, *known)


def kept(filled: FilledDocument, before: dict[str, Any]) -> bool:
    shown = repr({} if filled.settings is None else block_data(filled.settings))
    secret = [each for each in ("api_key", "secret", "token", "app_token", "password")]
    return any(str(before[name]) in shown for name in secret if name in before)


WITH_SERVERS = [
    (store, name)
    for store in blocks.BLOCK_TYPES
    if any(each.annotation is SecretStr for each in store.model.model_fields.values())
    for name in markers.marked(store.model.model_fields, "gets_secrets")
]


@pytest.mark.parametrize(
    ("store", "name"), WITH_SERVERS, ids=[f"{store.slug}-{name}" for store, name in WITH_SERVERS]
)
def test_no_stored_secret_is_kept_for_another_server(store: BlockStore[Any], name: str) -> None:
    before = SERVERS[store.slug]
    fields = store.model.model_fields
    plain = {key: value for key, value in before.items() if fields[key].annotation is not SecretStr}
    assert kept(filled_with(store, plain, before), before)
    port = markers.of(fields[name]).port
    changes: list[dict[str, Any]] = [{name: "evil.example"}, {port: 4433}] if port else []
    changes += [] if port else [
        {name: each}
        for each in ("https://evil.example", "http://a.example:443", "https://a.example:4433",
                     "https://a.example:x")
    ]  # fmt: skip
    for change in changes:
        filled = filled_with(store, plain | change, before)
        assert not kept(filled, before), change
        assert filled.settings is None or store.slug == "daybook-model-agent"


def test_no_secret_is_kept_for_a_value_that_names_no_server() -> None:
    stored = {"model": "openai:gpt-6-luna", "api_key": CANARY}
    filled = fill(f"{WITH_KEY}    base_url: 'http://a.example:x'\n", stored, KEY)
    assert filled.settings is None
    assert [each.field for each in filled.draft.entry.mistakes] == ["base_url"]


def test_a_secret_for_two_servers_has_to_be_bound_to_both() -> None:
    store = next((each for each in blocks.BLOCK_TYPES if each.slug == "daybook-mailbox"), None)
    if store is None:
        return
    given = {**SERVERS[store.slug], "password": "{{secret:mail}}"}
    hosts = ("imap.example.org", "smtp.example.org:1465")
    [found] = filled_with(store, given, {}, Secret("mail", CANARY, hosts[:1])).draft.entry.mistakes
    assert found.problem == 'the secret "mail" is not for smtp.example.org:1465'
    assert "add mail --host imap.example.org --host smtp.example.org:1465 --replace`" in found.hint
    filled = filled_with(store, given, {}, Secret("mail", CANARY, hosts))
    assert filled.draft.entry.mistakes == []


async def test_a_key_that_the_file_names_is_kept_for_another_url() -> None:
    before = {"model": "openai:gpt-6-luna", "api_key": CANARY}
    text = f"{WITH_KEY}    base_url: http://a.example/v1\n"
    filled = fill(text, before, Secret("openai", CANARY, ("a.example",)))
    assert (set(filled.draft.references), filled.draft.entry.mistakes) == ({"api_key"}, [])
    for gives_key in (True, False):
        assert filled.settings is not None
        found, notes = await agents.check_document(
            cast(Any, None), filled.settings, before, gives_key=gives_key
        )
        assert (block_data(found)["api_key"] == CANARY, notes == []) == (gives_key, gives_key)


COMMAND = "agents:\n  - {name: quick, kind: command, command: [cat]}\n"


def test_a_document_replaces_one_of_another_kind_only_if_it_is_new() -> None:
    model, command = (fill(each).draft for each in (AGENT, COMMAND))
    stored: dict[tuple[str, str], Any] = {command.ref: {"command": ["cat"]}}
    assert file_documents.replaced(model, stored, {model.ref}) == [kinds.COMMAND]
    assert file_documents.replaced(model, stored, {model.ref, command.ref}) == []
    both = stored | {model.ref: {"model": "openai:gpt-6-luna"}}
    assert file_documents.replaced(model, both, {model.ref}) == []
    assert file_documents.compare(fill(AGENT), both, {}) is None


async def test_two_documents_with_one_name_in_one_line_are_a_mistake() -> None:
    text = "agents: [{name: a, kind: offline}, {name: a, kind: offline}]\n"
    file = read_file(FileText("x.yaml", text), operations.nouns())
    found = (await operations.plan([file], {}, ())).mistakes
    assert [str(each) for each in found] == [
        'x.yaml:1:43: agent a: name: "a" is given twice (keep one; the first is x.yaml:1:17)'
    ]


def test_a_file_names_no_job_of_an_agent() -> None:
    jobs = [
        SimpleNamespace(id=id_, row=SimpleNamespace(name="brief", archived_at=None, owner=owner))
        for id_, owner in (("1", "user"), ("2", "agent:hermes"))
    ]
    assert operations.names_of(cast(Any, jobs)) == {"1": "brief"}


def test_a_hook_of_an_agents_job_is_left_out_of_the_export() -> None:
    hook = next((each for each in blocks.BLOCK_TYPES if each.noun == "hook"), None)
    if hook is not None:
        with pytest.raises(InvalidInput, match="belongs to an agent"):
            file_documents.export(
                hook, "a", {"job": "2", "secret": DESTINATION["secret"]}, {"1": "brief"}, {}
            )


def test_a_job_that_was_removed_meanwhile_is_an_error() -> None:
    hook = next((each for each in blocks.BLOCK_TYPES if each.noun == "hook"), None)
    if hook is not None:
        settings = hook.model.model_construct(job="brief")
        with pytest.raises(ChangedMeanwhile, match='"brief" was changed meanwhile'):
            file_documents.with_job_ids(hook, settings, {})


LITERALS: list[tuple[BlockStore[Any], dict[str, Any], str]] = [
    (server_blocks.STORE, {"url": "https://a.example/mcp?api_key=abc"}, "url"),
    (server_blocks.STORE, {"url": f"https://a.example/mcp?x={CANARY}"}, "url"),
    (server_blocks.STORE, {"command": ["serve", "postgresql://me:abc@a.example/"]}, "command"),
    (server_blocks.STORE, {"command": ["serve", "--api-key=abc"]}, "command"),
    (server_blocks.STORE, {"command": ["serve", "--access-token", "abc"]}, "command"),
    (kinds.COMMAND, {"command": ["env", "OPENAI_API_KEY=abc", "run"]}, "command"),
]


@pytest.mark.parametrize(("store", "data", "field"), LITERALS)
def test_a_document_with_a_literal_secret_is_left_out_of_the_export(
    store: BlockStore[Any], data: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        file_documents.export(store, "quick", data, {}, {})
    assert f'"quick" has a literal secret in its field "{field}"' in str(caught.value)
    assert "abc" not in str(caught.value)


def test_references_and_variables_are_no_literal_secrets() -> None:
    data = {"command": ["sh", "-c", "serve --token=$TOKEN --max-tokens 5 --token"]}
    fields, _ = file_documents.export(server_blocks.STORE, "quick", data, {}, {})
    assert fields["command"] == data["command"]


def test_a_missing_secret_is_named_with_its_command_and_the_stored_value_stays() -> None:
    text = f"{AGENT}    api_key: '{{{{secret:openai}}}}'\n"
    filled = fill(text)
    assert [str(each) for each in filled.missing] == [
        'x.yaml:4:14: agent quick: api_key: the secret "openai" does not exist on this machine '
        "(store it with `daybook secrets add openai --host agent:quick`)"
    ]
    stored = {"model": "openai:gpt-6-luna", "api_key": CANARY}
    again = fill(text, stored)
    assert (len(again.missing), plan(text, stored)) == (1, None)


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
