"""Payloads of hooks: data in prompts, bodies and params, whatever they contain."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from daybook import json_text
from daybook.errors import InvalidInput
from daybook.jobs import prompts
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


@pytest.mark.parametrize("as_form", [False, True])
def test_a_body_is_strict_json_or_a_form_with_strict_json(as_form: bool) -> None:
    def body(text: bytes) -> bytes:
        return urlencode({"payload": text}).encode() if as_form else text

    deep = b"[" * json_text.MAX_DEPTH + b"]" * json_text.MAX_DEPTH
    for good, value in (
        ('{"ä & b=c+d": [1]}'.encode(), {"ä & b=c+d": [1]}),
        (b"\xef\xbb\xbf{}", {}),
        (b"1e300", 1e300),
        (b"-0", 0),
        (b"9" * 4_000, int("9" * 4_000)),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ):
        assert read(body(good)) == value
    assert read(body(deep))
    for bad in (
        *(b"", b"{", b"NaN", b"[Infinity]", b"[-1e999]", b"\xff", b"a=1", b"9" * 5_000),
        b"[" + deep + b"]",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ):
        with pytest.raises(InvalidInput, match="is not JSON"):
            read(body(bad))


def test_a_form_has_only_the_field_of_the_payload() -> None:
    for bad in (b"payload=", b"payload={}&payload={}", b"payload={}&x=1", b"a=1&payload={}"):
        with pytest.raises(InvalidInput, match="is not JSON"):
            read(bad)


def test_a_prompt_may_use_any_path_of_the_payload() -> None:
    prompt = "{{payload}} {{ payload.a.0.b-c }} {{payload.a.0.b-c}} {{payloads}}"
    assert prompts.payload_variables(prompt) == ["payload", "payload.a.0.b-c"]
    prompts.check("{{payload.a}} {{due}}")
    with pytest.raises(InvalidInput, match=r"did you mean \{\{payload\}\}"):
        prompts.check("{{paylod}}")
    with pytest.raises(InvalidInput, match="unknown variable"):
        prompts.check("{{payload.a}}", known=prompts.JOB_VARIABLES)
