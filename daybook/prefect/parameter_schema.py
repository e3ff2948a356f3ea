"""Parameters of the flows, derived from the models of a job, and the location of each flow.

A flow takes the fields of its kind's action (`daybook.jobs.actions.ACTIONS`), `policy` and
`notify`. Prefect builds the parameter form of its UI from a function's signature and docstring. The
package imports no flow, so `schema` makes the same form from the models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import Field
from pydantic.fields import FieldInfo

from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import Job
from daybook.json_text import JsonObject
from daybook.policies.policy import Policy
from daybook.policies.work_pools import OWN_POOL

WORK_POOL = OWN_POOL
"""The work pool of our deployments, unless their job or the operator chooses another one."""

FLOW_DESCRIPTION = "A flow of Daybook. Each of its deployments is a job."
"""Description of our flows; `prefect deploy` copies it to a deployment that has none.

Prefect would otherwise use the flow's docstring, which describes every parameter.
"""

PULL_STEPS: list[JsonObject] = [{"daybook.repository.enter": {}}]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def signature(kind: str) -> inspect.Signature:
    """Return the signature of a kind's flow; `make docs` writes it into the flow's file.

    It has plain types without the models' validators: invalid parameters reach the flow, which
    records them as the reason of a failed run. Every parameter has a default, because Prefect's UI
    offers "Quick run" only then; the default of a required parameter is the empty string. The
    deployment has every value anyway.
    """
    policy = Policy.model_validate(ACTIONS[kind].default_policy)
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=policy if name == "policy" else _default(field),
                annotation=field.annotation,
            )
            for name, field in _fields(kind).items()
        ]
    )


def describes_parameters_of(kind: str) -> Callable[[_Function], _Function]:
    """Return a decorator that adds a kind's titles and descriptions to the parameters of a flow.

    The titles are in the defaults, each of which becomes a `Field`, because Prefect takes a
    parameter's name as its title, and only `json_schema_extra` replaces it. The descriptions are in
    the docstring.
    """
    fields = _fields(kind)
    described = "".join(f"\n    {name}: {field.description}" for name, field in fields.items())

    def decorate(function: _Function) -> _Function:
        written = inspect.signature(function, eval_str=True)
        titled = [
            each.replace(
                default=Field(each.default, json_schema_extra={"title": fields[name].title})
            )
            for name, each in written.parameters.items()
        ]
        function.__signature__ = written.replace(parameters=titled)  # type: ignore[attr-defined]
        function.__doc__ = f"{inspect.getdoc(function) or kind}\n\nArgs:{described}\n"
        return function

    return decorate


def _fields(kind: str) -> dict[str, FieldInfo]:
    shared = {name: Job.model_fields[name] for name in ("policy", "notify")}
    return ACTIONS[kind].model_fields | shared


def _default(field: FieldInfo) -> Any:
    return "" if field.is_required() else field.get_default(call_default_factory=True)


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
def schema(kind: str) -> JsonObject:
    """Return the parameter schema of a kind's flow, as Prefect derives it from the flow."""
    from prefect.utilities.callables import parameter_schema

    def prototype() -> None: ...

    prototype.__signature__ = signature(kind)  # type: ignore[attr-defined]
    return parameter_schema(describes_parameters_of(kind)(prototype)).model_dump_for_openapi()


def execution_fields(kind: str) -> JsonObject:
    """Return the deployment fields that define how jobs of a kind run; users do not edit them."""
    return {
        "entrypoint": entrypoint(kind),
        "pull_steps": PULL_STEPS,
        "work_pool_name": WORK_POOL,
        "parameter_openapi_schema": schema(kind),
    }
