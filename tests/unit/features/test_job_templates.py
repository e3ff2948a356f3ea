"""Templates of jobs: their files, and the jobs that answers give."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.features.job_templates import library
from daybook.features.job_templates.library import Template
from daybook.home import Home
from daybook.jobs.model import new_job

pytestmark = pytest.mark.usefixtures("daybook_home")

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
ANSWERS = {
    "address": "https://example.org/a",
    "addresses": "https://example.org/a",
    "repository": "a/b",
    "project": "a/b/c",
    "text": "/a",
}


def given(template: Template) -> dict[str, str]:
    return {
        name: question.default or ANSWERS[question.kind]
        for name, question in template.questions.items()
    }


@pytest.mark.parametrize("name", library.templates())
def test_each_template_gives_a_valid_job_that_contains_every_answer(name: str) -> None:
    template = library.template(name)
    fields = template.fill(given(template))
    job = new_job(now=NOW, default_timezone="Europe/Berlin", **fields)
    assert job.name == name
    for answer in given(template).values():
        assert answer in str(fields)
    assert template.title
    assert 2 <= len(template.questions) <= 3


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "page: has no answer"),
        ({"page": " "}, "page: has no answer"),
        ({"page": "example.org"}, 'page: "example.org" is no address'),
        ({"page": "https://a {{secret:x}}"}, "page: contains"),
        ({"page": "https://" + "a" * 2_000}, "page: is too long"),
        ({"page": "https://a.org", "pages": "x"}, "pages"),
        ({"page": "https://a.org https://b.org"}, "write only one"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_question(answers: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        library.template("page-watch").fill(answers)


def test_a_repository_is_owner_and_name() -> None:
    template = library.template("pull-requests")
    for wrong in ("uv", "a/b/c", "https://github.com/a/b", "a/b?x=1", "a b/c"):
        with pytest.raises(InvalidInput, match="is no repository"):
            template.fill({"repository": wrong})


def test_a_project_has_groups_and_its_addresses_are_encoded() -> None:
    template = library.template("merge-requests")
    for wrong in ("uv", "https://gitlab.com/a/b", "a/b?x=1", "a//b", "/a/b"):
        with pytest.raises(InvalidInput, match="is no project"):
            template.fill({"project": wrong})
    prompt = template.fill({"project": "a/b/c"})["prompt"]
    assert "/projects/a%2Fb%2Fc/issues?" in prompt and "of a/b/c." in prompt


def test_an_error_about_a_field_belongs_to_the_question_in_it() -> None:
    template = library.template("page-watch")
    for field, question in {
        "schedule": "interval",
        "every": "interval",
        "watch_url": "page",
        "prompt": "page",
        "name": "",
        "timeout": "",
    }.items():
        assert template.question_of(field) == question, field


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="morning-brief"):
        library.template("morning-brif")


def own(home: Home, name: str, text: str) -> Path:
    folder = home.path / "templates" / name
    folder.mkdir(parents=True)
    (folder / "template.yaml").write_text(text)
    return folder


OWN = """
title: Tides
does: Reports the tides.
questions: {port: {ask: "Which port?"}}
job: {name: tides, schedule: every day at 6:00, prompt: "Tides of ${port} for $$5"}
"""


def test_a_user_adds_a_template_and_replaces_one(daybook_home: Home) -> None:
    own(daybook_home, "tides", OWN)
    own(daybook_home, "limit", OWN)
    assert library.template("limit").title == "Tides"
    fields = library.template("tides").fill({"port": "Husum ${port} $x"})
    assert fields["prompt"] == "Tides of Husum ${port} $x for $5"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "title: [",
        "\x00",
        OWN.replace("title: Tides", ""),
        OWN + "more: 1",
        OWN + "when: !!timestamp zz",
        OWN + "when: 2026-99-99",
        OWN.replace('"Which port?"', "x, kind: address, default: harbour"),
        OWN.replace("${port}", "${prt}"),
        OWN.replace("$$5", "$"),
        OWN.replace('"Which port?"', "x, kind: number"),
        OWN.replace("port", "request_id"),  # the page's form has it
        OWN.replace("job: {", "job: &job {policy: *job, "),  # it contains itself
        OWN.replace("job: {", "job: {now: 5, "),  # no field of a job
        OWN.replace("job: {", "job: {5: x, "),
        OWN.replace("job: {", "job: [").replace('$$5"}', '$$5"]'),
    ],
)
def test_a_file_that_is_no_template_is_named(daybook_home: Home, text: str) -> None:
    own(daybook_home, "tides", text)
    with pytest.raises(InvalidInput, match="tides"):
        library.template("tides")
    assert library.template("limit").name == "limit"  # the others work
    assert isinstance(library.templates()["tides"], InvalidInput)


SKILL = "---\nname: tide-tables\ndescription: How to read a tide table.\n---\nRead it."


def with_skill(home: Home, text: str = SKILL) -> None:
    folder = own(home, "tides", OWN) / "skills" / "tables"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(text)


def test_a_template_brings_its_skills_and_its_agent_needs_them(daybook_home: Home) -> None:
    with_skill(daybook_home)
    assert library.template("tides").tools == ("skills.tide-tables",)
    assert list(library.skills("tides")) == ["tide-tables"]


@pytest.mark.parametrize(
    "text", ["", "# Tides", "---\n- a\n---\n", "---\na: [\n---\n", "\0---a---"]
)
def test_a_skill_without_a_name_is_named(daybook_home: Home, text: str) -> None:
    with_skill(daybook_home, text)
    with pytest.raises(InvalidInput, match=r"tables/SKILL\.md has no name"):
        library.template("tides")
