from __future__ import annotations

import json
import os
import sys

import pytest

from daybook.processes import environment


@pytest.mark.parametrize(
    "name", ["PREFECT_API_KEY", "prefect_api_key", "DAYBOOK_WEBHOOK_SECRET", "Daybook_Home"]
)
def test_variables_of_daybook_and_prefect_are_never_passed_on(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be passed on"):
        environment.check(["PATH", name])


def test_an_entry_with_a_value_is_refused_without_quoting_the_value() -> None:
    with pytest.raises(ValueError) as caught:
        environment.check(["API_KEY=hunter2hunter2"])
    assert "API_KEY" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "A B", "1A", "A\n"])
def test_an_invalid_variable_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a variable"):
        environment.check([name])


def test_only_listed_variables_that_are_set_are_passed_on() -> None:
    given = {"PATH": "/bin", "API_KEY": "k", "OTHER": "o"}
    assert environment.select(["PATH", "API_KEY", "TZ"], given) == {"PATH": "/bin", "API_KEY": "k"}


def test_an_error_hides_every_value_that_the_operator_added() -> None:
    variables = {
        "PATH": "/usr/local/bin",
        "DATABASE": "pg://user:pw@host",
        "API_KEY": "pg://user:pw@host/longer",
        "SHORT": "ab",
    }
    text = "ab /usr/local/bin pg://user:pw@host/longer pg://user:pw@host"
    hidden = environment.redact_values(text, variables)
    assert hidden == "ab /usr/local/bin [API_KEY] [DATABASE]"


def test_an_answer_hides_only_variables_with_a_secret_name() -> None:
    variables = {"AUTHOR": "Ada Lovelace", "API_KEY": "0123456789"}
    hidden = environment.redact_secrets("Ada Lovelace has 0123456789", variables)
    assert hidden == "Ada Lovelace has [API_KEY]"


def test_an_answer_hides_a_secret_in_the_spellings_of_json_and_python() -> None:
    secret = 'first\n"second"\\'
    text = f"{json.dumps({'key': secret})} and {secret!r}"
    hidden = environment.redact_secrets(text, {"API_KEY": secret})
    assert hidden == '{"key": "[API_KEY]"} and \'[API_KEY]\''


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("/venv", "/usr/bin:/bin", "/venv/bin:/usr/bin:/bin"),
        ("/venv", "/usr/bin:/venv/bin", "/venv/bin:/usr/bin"),
        ("/usr", "/home/me/bin:/usr/bin", "/home/me/bin:/usr/bin"),
        ("/usr", "/home/me/bin", "/usr/bin:/home/me/bin"),
    ],
    ids=["not-there", "behind", "a-system-interpreter", "a-system-interpreter-not-there"],
)
def test_the_programs_of_a_virtual_environment_come_first_in_the_path(
    monkeypatch: pytest.MonkeyPatch, prefix: str, path: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "executable", f"{prefix}/bin/python")
    monkeypatch.setenv("PATH", path)
    environment.set_search_path()
    assert os.environ["PATH"] == expected
    environment.set_search_path()
    assert os.environ["PATH"] == expected
