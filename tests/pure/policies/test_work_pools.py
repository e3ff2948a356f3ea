"""Work pools of jobs: the job variables, and what they need."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.http.secrets import refuse_literal_variables
from daybook.jobs.model import Job, new_job
from daybook.policies.work_pools import MAX_VARIABLES, MAX_VARIABLES_LENGTH
from daybook.prefect import job_variables

NOW = datetime(2027, 1, 1, tzinfo=UTC)
TEMPLATE: dict[str, Any] = {
    "job_configuration": {"image": "{{ image }}", "env": "{{ env }}", "memory": "{{ memory }}"},
    "variables": {
        "type": "object",
        "properties": {
            "image": {"type": "string"},
            "memory": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
            "needed": {"type": "string"},
        },
        "required": ["needed"],
    },
}


def job(variables: Any, pool: str = "containers") -> Job:
    return new_job(
        now=NOW, name="a", prompt="hello", on_demand=True, pool=pool, job_variables=variables
    )


def test_variables_are_a_json_object_of_a_job_with_a_pool() -> None:
    given = {"image": "daybook:1", "env": {"A": "1"}, "memory": 512}
    assert job(given).policy.job_variables == given
    assert job(given).policy.model_dump(mode="json")["job_variables"] == given


@pytest.mark.parametrize("pool", ["", "daybook"])
def test_variables_without_a_pool_that_uses_them_are_refused(pool: str) -> None:
    with pytest.raises(InvalidInput, match="applies only to a job with a pool"):
        job({"image": "daybook:1"}, pool)
    assert job({}, pool).policy.job_variables == {}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (["image"], "dictionary"),
        ({"": "x"}, "'' is no variable"),
        ({"a b": "x"}, "'a b' is no variable"),
        ({"env": {"a": {1, 2}}}, "is not valid JSON"),
        ({"env": {"a": float("nan")}}, "is not valid JSON"),
        ({"env": {"__prefect_kind": "jinja"}}, "is reserved for Prefect"),
        ({"env": {"a": "\0"}}, "cannot store"),
        ({f"v{n}": 1 for n in range(MAX_VARIABLES + 1)}, "51 variables"),
        ({"image": "x" * MAX_VARIABLES_LENGTH}, "too long"),
    ],
)
def test_variables_that_prefect_could_not_store_are_refused(variables: Any, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refused:
        job(variables)
    assert refused.value.field == "job_variables"


def test_only_the_operator_sets_variables() -> None:
    with pytest.raises(InvalidInput, match="only the operator"):
        job({"image": "daybook:1"}).policy.refuse_operator_fields()
    job({}).policy.refuse_operator_fields()


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"env": {"API_KEY": "abc"}}, "env.API_KEY"),
        ({"env": {"GITHUB_TOKEN": "abc"}}, "env.GITHUB_TOKEN"),
        ({"env": {"DAYBOOK_LEDGER_URL": "postgresql://me:word@db/book"}}, "env.DAYBOOK_LEDGER_URL"),
        ({"env": [{"name": "API_KEY", "value": "abc"}]}, "env.API_KEY"),
        ({"env": {"PGPASSWORD": "abc"}}, "env.PGPASSWORD"),
        ({"env": {"MYSQL_PWD": "abc"}}, "env.MYSQL_PWD"),
        ({"env": {"DB_PASS": "abc"}}, "env.DB_PASS"),
        ({"env": {"AUTHORIZATION": "Bearer abc"}}, "env.AUTHORIZATION"),
        ({"command": "run --token abc"}, "command"),
        ({"labels": ["x", "ghp_" + "a" * 30]}, "labels"),
        ({"env": {"X_TOKEN": "a{{ prefect.blocks.secret.key }}"}}, "env.X_TOKEN"),
        ({"env": {"A": "{{secret:key}}"}}, "env.A"),
    ],
)
def test_a_secret_among_the_variables_is_refused(variables: Any, path: str) -> None:
    with pytest.raises(InvalidInput, match=f'"{path}"') as refused:
        refuse_literal_variables(variables)
    assert refused.value.field == "job_variables"
    assert "word" not in str(refused.value)


def test_a_reference_to_a_block_of_prefect_is_accepted() -> None:
    refuse_literal_variables(
        {
            "env": {
                "API_KEY": "{{ prefect.blocks.secret.api-key }}",
                "AUTHORIZATION": "Bearer {{ prefect.blocks.secret.api-key }}",
                "PWD": "/srv",
                "URL": "postgresql://me:{{prefect.variables.word}}@db/book",
            },
            "image": "registry.example.org/daybook@sha256:0123",
            "service_account_name": "daybook",
            "image_pull_secret": "regcred",
        }
    )


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"imgae": "x"}, 'unknown "imgae" (did you mean "image"'),
        ({"memory": "2g"}, '"memory" does not fit'),
        ({"env": {"A": 1}}, '"env.A" does not fit'),
    ],
)
def test_variables_have_to_fit_the_template_of_the_pool(variables: Any, problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        job_variables.check(variables, TEMPLATE)
    assert problem in str(refused.value)


@pytest.mark.parametrize("template", [{}, {"variables": {}}, {"variables": {"type": "object"}}])
def test_a_template_that_lists_no_variables_refuses_none(template: Any) -> None:
    job_variables.check({"anything": 1}, template)
    job_variables.check({"image": "x", "memory": None, "env": {"A": "1"}}, TEMPLATE)
    job_variables.check({}, TEMPLATE)
