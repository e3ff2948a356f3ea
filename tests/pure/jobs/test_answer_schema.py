"""Schemas of structured answers: self-contained, or refused when the job is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.jobs import answer_schema
from daybook.jobs.model import read_parameters


class Elsewhere:
    """Server that returns a schema and records the requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body = b'{"type": "integer"}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/internal"


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def test_a_schema_that_refers_to_another_document_is_refused_and_never_fetched(
    elsewhere: Elsewhere,
) -> None:
    schema = {"$ref": elsewhere.address}
    with pytest.raises(InvalidInput, match="points outside the schema") as refused:
        read_parameters(
            "agent-prompt",
            {"prompt": "x", "output_format": "structured", "output_schema": schema},
        )
    assert refused.value.field == "output_schema"
    with pytest.raises(Exception, match="Unresolvable"):
        answer_schema.mismatch(schema, 3)
    assert elsewhere.asked == []


deep: dict[str, Any] = {}
for _ in range(2_000):
    deep = {"items": deep}

OUT = "points outside the schema, or to nothing"
NONE = "is not a valid JSON schema"
ENDLESS = "endlessly"
TITLE = {"title": "t", "maxLength": 3, "properties": {"a": {}}}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "#/$defs/x"}, OUT),
        ({"$ref": "#x"}, OUT),
        ({"$dynamicRef": "#x"}, OUT),
        ({"$ref": "file:///etc/hostname"}, OUT),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, OUT),
        ({"$ref": "http://["}, OUT),
        ({"$id": "http://h/a", "$ref": "b"}, OUT),
        ({"properties": {"a": {"items": {"$ref": "b"}}}}, OUT),
        ({"dependentSchemas": {"a": {"$ref": "b"}}}, OUT),
        ({"x": {"y": {"$ref": "b"}}, "items": {"$ref": "#/x/y"}}, OUT),
        (TITLE | {"$ref": "#/maxLength/0"}, OUT),
        (TITLE | {"$ref": "#/title"}, NONE),
        ({"x": {"type": "nope"}, "items": {"$ref": "#/x"}}, NONE),
        ({"$ref": 3}, NONE),
        ({"type": "string", "pattern": "["}, NONE),
        ({}, "is missing"),
        ({"$ref": "#"}, ENDLESS),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}, ENDLESS),
        (deep, ENDLESS),
    ],
)
def test_a_schema_that_cannot_be_evaluated_is_refused(schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refused:
        answer_schema.check(schema)
    assert refused.value.field == "output_schema"


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/node"}},
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "fits", "does_not"),
    [
        (TREE, {"next": {"next": {}}}, {"next": {"last": 1}}),
        ({"definitions": {"n": {"type": "null"}}, "$ref": "#/definitions/n"}, None, 1),
        ({"$id": "http://h/a", "$defs": {"b": {"$id": "b", "type": "null"}}, "$ref": "b"}, None, 1),
        ({"$anchor": "n", "type": "object", "items": {"$dynamicRef": "#n"}}, {}, []),
        ({"x": {"y": {"type": "null"}}, "items": {"$ref": "#/x/y"}}, [None], [1]),
        # These are not references, although they look alike.
        ({"properties": {"$ref": {"type": "string"}}}, {"$ref": "http://h/"}, {"$ref": 1}),
        ({"enum": [{"$ref": "http://h/"}]}, {"$ref": "http://h/"}, {}),
    ],
)
def test_references_within_the_schema_are_followed(
    schema: dict[str, Any], fits: Any, does_not: Any
) -> None:
    answer_schema.check(schema)
    assert answer_schema.mismatch(schema, fits) == ""
    assert answer_schema.mismatch(schema, does_not).startswith("does not match the schema at $")


def test_an_answer_nested_too_deeply_does_not_match() -> None:
    node: dict[str, Any] = {}
    for _ in range(900):
        node = {"next": node}
    assert answer_schema.mismatch(TREE, node) == "is nested too deeply to be checked"
