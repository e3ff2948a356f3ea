"""Payloads of hooks: data in prompts, bodies and params, whatever they contain."""

from __future__ import annotations

import json

import pytest

from daybook.errors import InvalidInput
from daybook.jobs import payloads, prompts
from daybook.jobs.payloads import check_body, fill, fill_body, read

PAYLOAD = {
    "title": 'a "quoted" title',
    "number": 7,
    "tags": ["x", {"name": "y"}],
    "evil": "{{secret:ops}} {{payload.number}}",
    "pull-request": {"open": True},
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{{payload}}", PAYLOAD),
        ("{{ payload.number }}", 7),
        ("{{payload.pull-request.open}}", True),
        ("{{payload.tags.1.name}}", "y"),
        ("{{payload.tags.2}}", None),
        ("{{payload.title.x}}", None),
        ("no. {{payload.number}}: {{payload.title}}", 'no. 7: a "quoted" title'),
        ("{{payload.tags}}!", '["x", {"name": "y"}]!'),
        ("{{payload.missing}}!", "!"),
        # What was put in is not read again.
        ("{{payload.evil}}", "{{secret:ops}} {{payload.number}}"),
        ("<{{payload.evil}}>", "<{{secret:ops}} {{payload.number}}>"),
        ("{{payloads}} {{secret:ops}}", "{{payloads}} {{secret:ops}}"),
        ({"{{payload}}": ["{{payload.number}}", 1]}, {"{{payload}}": [7, 1]}),
    ],
)
def test_variables_in_the_strings_of_a_template_are_replaced(
    template: object, filled: object
) -> None:
    assert fill(template, PAYLOAD) == filled


def test_a_value_cannot_change_the_form_of_a_json_body() -> None:
    body = '{"text": "New: {{payload.title}}", "n": "{{payload.number}}", "admin": false}'
    hostile = PAYLOAD | {"title": '", "admin": true, "x": "'}
    assert json.loads(fill_body(body, hostile)) == {
        "text": 'New: ", "admin": true, "x": "',
        "n": 7,
        "admin": False,
    }
    assert json.loads(fill_body("{{payload}}", hostile)) == hostile
    assert fill_body("New: {{payload.title}}", PAYLOAD) == 'New: a "quoted" title'
    same = '{ "unchanged":  1 }'
    assert fill_body(same, PAYLOAD) == same


def test_a_body_whose_form_a_value_could_change_is_refused() -> None:
    for body in ('{"n": {{payload.number}}}', "title={{payload.title}}&admin=0"):
        with pytest.raises(InvalidInput, match="is not JSON"):
            check_body(body, "")
    check_body("title={{payload.title}}", "text/plain; charset=utf-8")
    for body in ('["{{payload}}"]', " {{payload.title}} ", "no variable"):
        check_body(body, "application/json")


def test_a_body_is_read_as_strict_json() -> None:
    assert read('{"ä": [1]}'.encode()) == {"ä": [1]}
    deep = b"[" * payloads.MAX_DEPTH + b"]" * payloads.MAX_DEPTH
    assert read(deep)
    for bad in (b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"a=1", b"9" * 5_000):
        with pytest.raises(InvalidInput, match="is not JSON"):
            read(bad)
    for bad in (
        b"[" + deep + b"]",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ):
        with pytest.raises(InvalidInput, match=r"JSON|nested too deeply"):
            read(bad)


def test_a_prompt_may_use_any_path_of_the_payload() -> None:
    prompt = "{{payload}} {{ payload.a.0.b-c }} {{payload.a.0.b-c}} {{payloads}}"
    assert prompts.payload_variables(prompt) == ["payload", "payload.a.0.b-c"]
    prompts.check("{{payload.a}} {{due}}")
    with pytest.raises(InvalidInput, match=r"did you mean \{\{payload\}\}"):
        prompts.check("{{paylod}}")
    with pytest.raises(InvalidInput, match="unknown variable"):
        prompts.check("{{payload.a}}", known=prompts.JOB_VARIABLES)
