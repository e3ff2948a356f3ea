"""Actions answer for themselves: a kind or a field is added without changing its readers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from daybook.jobs.actions import BaseAction


def test_a_kind_without_a_display_cannot_be_made() -> None:
    class Mute(BaseAction):
        """A kind that does not say how it is shown."""

    with pytest.raises(TypeError, match=r"abstract.*brief.*facts.*sentence.*subject"):
        Mute()  # type: ignore[abstract]


PROGRAM = '''
import json
from datetime import UTC, datetime
from typing import Annotated, Literal, Union

from pydantic import Field

from daybook.jobs import actions
from daybook.markers import Marker


class Echo(actions.BaseAction):
    """Action of an `echo` job: repeat a text."""

    opening = "Repeats "
    default_policy = {"retries": 1}

    text: Annotated[str, Marker(is_long=True, missing="write the text")] = Field(
        title="Text", description="Text to repeat."
    )
    volume: Annotated[
        Literal["low", "high"],
        Marker(option="loudness", for_agents="low or high", is_checked=True),
    ] = Field(default="low", title="Volume", description="How loud.")

    def subject(self):
        return self.text

    def brief(self):
        return "repeats", self.text

    def sentence(self):
        return self.opening, self.text

    def sent(self):
        return [("Text", self.text)]

    def facts(self):
        return [self.brief(), ("volume", self.volume)]


actions.ACTIONS["echo"] = Echo
actions.Kind = Literal[tuple(actions.ACTIONS)]
actions.Action = Union[tuple(actions.ACTIONS.values())]

# What follows uses the product as it is; nothing in it names the kind or its fields.
from daybook.api import preflight
from daybook.cli.job_options import JobOptions
from daybook.files.schema import schema
from daybook.jobs import limits, model
from daybook.jobs.provenance import target_parts
from daybook.prefect.summary import summary, without_summary
from daybook.toolbox import calls
from daybook.web.pages import job_form

now = datetime(2026, 11, 20, 9, tzinfo=UTC)
job = model.new_job(now=now, text="Good morning", schedule="every 1h")
louder = model.edit(job, {"volume": "high"}, now=now)
limits.check(louder, "agent:scout", limits.Limits(), now)
problem = ""
try:
    model.new_job(now=now, kind="echo", schedule="every 1h")
except Exception as error:
    problem = str(error)
described = summary(louder)
properties = schema()["$defs"]["Job"]["properties"]
options = JobOptions.__annotations__
print(json.dumps({
    "job": [job.kind, job.name, job.policy.retries],
    "action": louder.parameters()["volume"],
    "read": model.read_parameters("echo", louder.parameters())[0] == louder.action,
    "summary": described.split("\\n"),
    "user's own description": without_summary(described),
    "target": louder.action.target(),
    "problem": problem,
    "options": [options[each].__metadata__[0].name for each in ("text", "volume")],
    "group": options["volume"].__metadata__[0].group[0].name,
    "file": [properties["volume"]["enum"], "echo" in properties["kind"]["enum"]],
    "agents may set": calls.OPTIONS["volume"],
    "checked": "volume" in preflight.ACTION_FIELDS,
    "form": {each.name: each.control for each in job_form.groups_of("echo")[0].fields},
    "more": [each.name for each in job_form.groups_of("echo")[1].fields],
    "targets": [each for each, value in target_parts(louder).items() if value],
}))
'''


@pytest.fixture(scope="module")
def product() -> dict[str, Any]:
    """Return what the product makes of a kind and of its fields that only `PROGRAM` knows."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_reader_of_jobs_names_a_kind(product: dict[str, Any]) -> None:
    assert product["job"] == ["echo", "good-morning", 1]
    assert product["read"]
    assert product["summary"] == [
        "**good-morning** — every 1 hour",
        "- Repeats `Good morning`",
    ]
    assert product["user's own description"] == ""
    assert product["target"] == "Good morning"
    assert product["problem"] == "text: is missing (write the text)"
    assert product["group"] == "Echo"
    assert product["file"] == [["low", "high"], True]
    assert product["targets"] == []


def test_no_reader_of_jobs_names_a_field(product: dict[str, Any]) -> None:
    assert product["action"] == "high"
    assert product["options"] == [["--text"], ["--loudness"]]
    assert product["agents may set"] == "low or high"
    assert product["checked"]
    assert product["form"]["text"] == "text"
    assert product["more"] == ["volume"]
