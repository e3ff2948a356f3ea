"""The templates: their files, and the job that answers give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template as Text
from typing import Any, Literal
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from daybook.errors import InvalidInput, UnknownName
from daybook.home import current_home
from daybook.jobs.model import FIELDS
from daybook.schedules.fields import ScheduleFields
from daybook.validation import from_pydantic

FILE = "template.yaml"
MAX_FILE_BYTES = 100_000
MAX_ANSWER_CHARACTERS = 2_000
SKILLS = "skills"
"""Folder of a template with the folders of the skills that it contains."""
_LIBRARY = Path(__file__).parent / "library"

OTHER_FIELDS = ("agent", "csrf", "name", "request_id")
"""Fields of the page's form besides the answers, so no question can have one of these names."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+\Z")
_PROJECT = re.compile(r"[\w.-]+(/[\w.-]+)+\Z")


class TemplateQuestion(BaseModel):
    """A question, and the kind of its answer. Without a ``default``, an answer is required."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ask: str
    default: str = ""
    kind: Literal["text", "address", "addresses", "repository", "project"] = "text"

    def checked(self, name: str, answer: str) -> str:
        """Return the answer, or the default for a blank one.

        Raise `InvalidInput` for an answer that is missing or is not of the question's kind.
        """
        text = " ".join(answer.split()) or self.default
        if not text:
            raise InvalidInput(name, "has no answer", f"answer: {self.ask}")
        if len(text) > MAX_ANSWER_CHARACTERS:
            raise InvalidInput(name, "is too long", f"use {MAX_ANSWER_CHARACTERS:,} characters")
        if "{{" in text:
            raise InvalidInput(name, "contains {{", "leave the braces out")
        if self.kind in ("address", "addresses"):
            if self.kind == "address" and " " in text:
                raise InvalidInput(name, f'"{text}" is no address', "write only one")
            for each in text.split():
                if not each.startswith(("http://", "https://")):
                    raise InvalidInput(name, f'"{each}" is no address', "write https://…")
        if self.kind == "repository" and not _REPOSITORY.match(text):
            raise InvalidInput(name, f'"{text}" is no repository', "write owner/name")
        if self.kind == "project" and not _PROJECT.match(text):
            raise InvalidInput(name, f'"{text}" is no project', "write group/name")
        return text


class Template(BaseModel):
    """A template. ``does`` is one sentence; ``tools`` are the tools that its agent needs, also the
    `skills` that it contains.

    ``job`` has the fields of a job, as a jobs file has them. In its texts, ``${name}`` stands for
    the answer to the question ``name``, ``${name_encoded}`` for this answer as a part of an
    address, and ``$$`` for a dollar sign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    does: str
    tools: tuple[str, ...] = ()
    questions: dict[str, TemplateQuestion] = Field(default={})
    job: dict[str, Any]

    @field_validator("questions")
    @classmethod
    def _are_free(cls, questions: dict[str, TemplateQuestion]) -> dict[str, TemplateQuestion]:
        if taken := [name for name in questions if name in OTHER_FIELDS]:
            raise ValueError(f'"{taken[0]}" cannot be the name of a question; use another one')
        return questions

    @field_validator("job")
    @classmethod
    def _has_known_fields(cls, job: dict[str, Any]) -> dict[str, Any]:
        if unknown := [name for name in job if name not in FIELDS]:
            raise ValueError(f'"{unknown[0]}" is no field of a job; leave it out')
        return job

    def question_of(self, field: str) -> str:
        """Return the question whose answer is in the job's ``field``; "" if none is."""
        values = _values(self.job, "schedule" if field in ScheduleFields.model_fields else field)
        found = Text.pattern.finditer(str(values))
        named = ((each["named"] or each["braced"] or "").removesuffix("_encoded") for each in found)
        return next((each for each in named if each in self.questions), "")

    def fill(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of the job. Raise `InvalidInput` that names a wrong answer."""
        if unknown := sorted(answers.keys() - self.questions.keys()):
            raise UnknownName("question", unknown[0], list(self.questions))
        checked = {
            name: question.checked(name, answers.get(name, ""))
            for name, question in self.questions.items()
        }
        encoded = {f"{name}_encoded": quote(text, safe="") for name, text in checked.items()}
        filled: dict[str, Any] = _filled(self.job, encoded | checked)
        return filled


def templates() -> dict[str, Template | InvalidInput]:
    """Return all templates by name, sorted; one of the user replaces one of Daybook's.

    A file that is no template has the error of `template` in its place.
    """
    found: dict[str, Template | InvalidInput] = {}
    for name, file in sorted(_files().items()):
        try:
            found[name] = _read(file)
        except InvalidInput as error:
            found[name] = error
    return found


def template(name: str) -> Template:
    """Return the template of this name.

    Raise `UnknownName`, and `InvalidInput` for a file that is no template.
    """
    files = _files()
    if name not in files:
        raise UnknownName("template", name, sorted(files))
    return _read(files[name])


def skills(name: str) -> dict[str, Path]:
    """Return the folders of the skills that the template ``name`` contains, by their names.

    Raise `InvalidInput` for a skill whose name cannot be read.
    """
    found = {}
    for file in sorted(_files()[name].parent.glob(f"{SKILLS}/*/SKILL.md")):
        try:
            with file.open("rb") as opened:
                _, head, _ = opened.read(MAX_FILE_BYTES).decode(errors="replace").split("---", 2)
            found[str(yaml.safe_load(head)["name"])] = file.parent
        except (OSError, yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError):
            hint = "begin it with the lines ---, name: …, description: …, ---"
            raise InvalidInput("template", f"{file} has no name", hint) from None
    return found


def _files() -> dict[str, Path]:
    folders = [_LIBRARY, current_home().path / "templates"]
    return {each.parent.name: each for folder in folders for each in folder.glob(f"*/{FILE}")}


def _read(file: Path) -> Template:
    try:
        with file.open("rb") as opened:
            read = yaml.safe_load(opened.read(MAX_FILE_BYTES).decode())
    except (OSError, yaml.YAMLError, RecursionError, ValueError, AttributeError) as error:
        why = type(error).__name__  # the values of tags such as !!timestamp raise the last two
        raise InvalidInput("template", f"{file} cannot be read ({why})", "repair it") from None
    try:
        given = {**read, "name": file.parent.name} if isinstance(read, dict) else {}
        found = Template.model_validate(given)
        brought = tuple(f"skills.{each}" for each in skills(found.name))
        found = found.model_copy(update={"tools": (*found.tools, *brought)})
        found.fill({name: each.default or _example(each) for name, each in found.questions.items()})
    except ValidationError as error:
        wrong = from_pydantic(error.errors()[0], Template.model_fields)
        raise InvalidInput(f"{file}: {wrong.field}", wrong.problem, wrong.hint) from None
    except InvalidInput as error:  # for a default, or a skill
        raise InvalidInput(f"{file}: {error.field}", error.problem, error.hint) from None
    except RecursionError:  # of an alias
        raise InvalidInput("template", f"{file} contains itself", "leave the alias out") from None
    except (KeyError, ValueError) as error:  # of `string.Template`
        problem = f"{file}: job: {error} is no question"
        raise InvalidInput("template", problem, "add the question, or write $$") from None
    return found


def _example(question: TemplateQuestion) -> str:
    address = "https://example.org"
    examples = {"address": address, "addresses": address, "repository": "a/b", "project": "a/b"}
    return examples.get(question.kind, "a")


def _values(value: Any, field: str) -> list[Any]:
    """Return the values of the ``field`` at any depth."""
    if not isinstance(value, dict):
        return []
    return [
        found
        for name, each in value.items()
        for found in ([each] if name == field else _values(each, field))
    ]


def _filled(value: Any, answers: Mapping[str, str]) -> Any:
    match value:
        case str():
            return Text(value).substitute(answers)
        case dict():
            return {name: _filled(each, answers) for name, each in value.items()}
        case list():
            return [_filled(each, answers) for each in value]
    return value
