"""Parameters of the flows, derived from the models of a job, and the location of each flow.

A flow takes the fields of its kind's action (`daybook.jobs.actions.ACTIONS`), `policy` and
`notify`. Prefect builds the parameter form of its UI from a function's signature and docstring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import Field

from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import Job
from daybook.policies.policy import Policy

WORK_POOL = "daybook"
"""The work pool of all our deployments."""

FLOW_DESCRIPTION = "A flow of Daybook. Each of its deployments is a job."
"""Description of our flows; `prefect deploy` copies it to a deployment that has none.

Prefect would otherwise use the flow's docstring, which describes every parameter.
"""

PULL_STEPS: list[dict[str, Any]] = [{"daybook.repository.enter": {}}]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_parameters_of(kind: str) -> Callable[[_Function], _Function]:
    """Return a decorator that gives a function with ``**parameters`` the parameters of a kind.

    The signature has plain types without the models' validators: invalid parameters reach the
    function, which records them as the reason of a failed run. Every parameter has a default,
    because Prefect's UI offers "Quick run" only then; the default of a required parameter is the
    empty string. The deployment has every value anyway. A default is in a `Field`, because Prefect
    takes the name as the title, and only `json_schema_extra` replaces it.
    """
    fields = dict(ACTIONS[kind].model_fields)
    defaults = {
        name: "" if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in fields.items()
    }
    fields |= {name: Job.model_fields[name] for name in ("policy", "notify")}
    defaults |= {
        "policy": Policy.model_validate(ACTIONS[kind].default_policy),
        "notify": Job.model_fields["notify"].default,
    }
    signature = inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=Field(defaults[name], json_schema_extra={"title": field.title}),
                annotation=field.annotation,
            )
            for name, field in fields.items()
        ]
    )
    described = "".join(f"\n    {name}: {field.description}" for name, field in fields.items())

    def decorate(function: _Function) -> _Function:
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.__doc__ = f"{inspect.getdoc(function) or kind}\n\nArgs:{described}\n"
        return function

    return decorate


def entrypoint(kind: str) -> str:
    """Return the entrypoint of a kind's flow, as Prefect writes it: file and function."""
    name = kind.replace("-", "_")
    return f"flows/{name}.py:{name}"


def kind_of(entrypoint: str | None) -> str | None:
    """Return the kind whose flow an entrypoint names, by file or by module, or None."""
    name = (entrypoint or "").removeprefix("./")
    for kind in ACTIONS:
        function = kind.replace("-", "_")
        if name in (f"flows/{function}.py:{function}", f"flows.{function}.{function}"):
            return kind
    return None


@cache
def schema(kind: str) -> dict[str, Any]:
    """Return the parameter schema of a kind's flow, as Prefect derives it from a signature."""
    from prefect.utilities.callables import parameter_schema

    def prototype(**parameters: Any) -> None: ...

    return parameter_schema(takes_parameters_of(kind)(prototype)).model_dump_for_openapi()


def execution_fields(kind: str) -> dict[str, Any]:
    """Return the deployment fields that define how jobs of a kind run; users do not edit them."""
    return {
        "entrypoint": entrypoint(kind),
        "pull_steps": PULL_STEPS,
        "work_pool_name": WORK_POOL,
        "parameter_openapi_schema": schema(kind),
    }
