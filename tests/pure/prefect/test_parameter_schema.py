"""The package's copy of the flows' parameter schemas; the package imports no entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from daybook import repository
from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import Job, new_job
from daybook.operations import worker
from daybook.prefect import parameter_schema as form
from flows.agent_prompt import agent_prompt
from flows.heartbeat import heartbeat
from flows.tool_call import tool_call
from flows.webhook import webhook

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
FLOWS: dict[str, Flow[..., Any]] = {
    "agent-prompt": agent_prompt,
    "webhook": webhook,
    "tool-call": tool_call,
    "heartbeat": heartbeat,
}


def test_each_kind_has_the_parameter_schema_of_its_flow() -> None:
    assert ACTIONS.keys() == FLOWS.keys()
    for kind, flow in FLOWS.items():
        assert flow.name == kind
        assert form.schema(kind) == parameter_schema(flow).model_dump_for_openapi()
        file, _, function = form.entrypoint(kind).partition(":")
        assert f"def {function}(" in (repository.root() / file).read_text()


def test_each_flow_writes_out_the_types_and_defaults_of_its_kind() -> None:
    for kind, flow in FLOWS.items():
        parameters = form.signature(kind).parameters
        hints = get_type_hints(flow.fn)
        del hints["return"]
        assert hints == {name: each.annotation for name, each in parameters.items()}
        assert flow.fn.__kwdefaults__ == {name: each.default for name, each in parameters.items()}


@pytest.mark.parametrize("kind", ACTIONS)
def test_no_parameter_is_required_so_that_quick_run_takes_one_click(kind: str) -> None:
    schema = form.schema(kind)
    assert "required" not in schema
    assert all("default" in each for each in schema["properties"].values())


@pytest.mark.parametrize("kind", ACTIONS)
def test_each_field_of_the_form_has_the_title_of_the_models_field(kind: str) -> None:
    schema = form.schema(kind)
    fields = ACTIONS[kind].model_fields | Job.model_fields
    assert {name: each["title"] for name, each in schema["properties"].items()} == {
        name: fields[name].title for name in schema["properties"]
    }
    parts = [schema, *schema["definitions"].values()]
    for name, each in ((name, each) for part in parts for name, each in part["properties"].items()):
        title = each["title"]
        assert title[0].isupper(), name
        assert "_" not in title, name


def test_the_parameters_of_an_agent_job_match_its_schema() -> None:
    job = new_job(now=NOW, prompt="x", every="1h", timeout="90s")
    schema = form.schema("agent-prompt")
    validate(job.parameters(), schema, raise_on_error=True)
    for wrong in (
        {"prompt": 5},
        {"prompt": "x", "policy": {"surprise": 1}},
        {"prompt": "x", "session": "z"},
    ):
        with pytest.raises(ValidationError):
            validate(wrong, schema, raise_on_error=True)


def test_the_parameters_of_a_webhook_match_its_schema() -> None:
    job = new_job(now=NOW, url="https://x.example/a", method="put", headers={"A": "b"}, every="1h")
    schema = form.schema("webhook")
    assert (job.kind, job.parameters()["method"]) == ("webhook", "PUT")
    validate(job.parameters(), schema, raise_on_error=True)
    with pytest.raises(ValidationError):
        validate({"url": "https://x.example", "method": "BREW"}, schema, raise_on_error=True)


def test_the_parameters_of_a_tool_call_match_its_schema() -> None:
    job = new_job(now=NOW, tool="search.reindex", params={"n": [1, {"a": None}]}, every="1h")
    schema = form.schema("tool-call")
    validate(job.parameters(), schema, raise_on_error=True)
    for wrong in ({"tool": "x", "params": []}, {"tool": 5}):
        with pytest.raises(ValidationError):
            validate(wrong, schema, raise_on_error=True)


def test_deployments_and_workers_use_the_same_work_pool() -> None:
    assert form.execution_fields("agent-prompt")["work_pool_name"] == worker.POOL


def test_the_parameter_schemas_match_the_snapshot(snapshot: Callable[[str, str], None]) -> None:
    schemas = {kind: form.schema(kind) for kind in ACTIONS}
    snapshot("prefect-parameters.json", json.dumps(schemas, indent=1))
