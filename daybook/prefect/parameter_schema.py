"""The parameter form of a job in Prefect's UI, and the location of its flow.

The package never imports a Prefect entry point, so prototypes repeat the signatures of the flows; a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from daybook.jobs.actions import DEFAULT_ORDERS_FILE, Method, OutputFormat, Session
from daybook.jobs.notify import Notify
from daybook.jobs.policy import Policy

WORK_POOL = "daybook"
"""The work pool of all our deployments."""

PULL_STEPS: list[dict[str, Any]] = [{"daybook.repository.enter": {}}]


def _agent_prompt(
    prompt: str,
    agent: str = "default",
    model: str = "",
    session: Session = "reuse",
    session_key: str = "",
    output_format: OutputFormat = "text",
    output_schema: dict[str, Any] = {},  # noqa: B006 - never changed
    policy: Policy = Policy(),  # noqa: B008 - immutable
    notify: Notify = Notify(),  # noqa: B008 - immutable
) -> None:
    """One prompt to one agent.

    Args:
        prompt: What the agent is asked. It may name {{due}}, {{job}} and {{last_output}}.
        agent: The agent's name, as `daybook agents list` shows it.
        model: The model that a model agent is to use instead of its own; empty is its own.
        session: Whether the job's runs continue one conversation, each begins a new one, or they
            continue that of their channel and chat id (chat).
        session_key: The name of a conversation that several jobs of one agent share; empty is the
            job's own.
        output_format: What the answer has to be: text, any JSON, or JSON that fits the schema.
        output_schema: The JSON schema of a structured answer.
        policy: How long an attempt may take, retries, and what happens when runs overlap.
        notify: Recipients of the outcome: callback addresses and a channel.
    """


def _webhook(
    url: str,
    method: Method = "POST",
    headers: dict[str, str] = {},  # noqa: B006 - never changed
    body: str = "",
    policy: Policy = Policy(timeout=timedelta(seconds=30), retries=0),  # noqa: B008 - immutable
    notify: Notify = Notify(),  # noqa: B008 - immutable
) -> None:
    """One HTTP request.

    Args:
        url: The address that is called.
        method: The HTTP method.
        headers: Names and values; a secret only as {{secret:name}}.
        body: What is sent, as it stands; JSON unless a Content-Type header says otherwise.
        policy: How long an attempt may take, retries, and what happens when runs overlap.
        notify: Recipients of the outcome: callback addresses and a channel.
    """


def _tool_call(
    tool: str,
    params: dict[str, Any] = {},  # noqa: B006 - never changed
    policy: Policy = Policy(retries=0),  # noqa: B008 - immutable
    notify: Notify = Notify(),  # noqa: B008 - immutable
) -> None:
    """One call of a tool.

    Args:
        tool: A Python tool's name, server.tool of a saved tool server, or an MCP server's address
            with the tool after #.
        params: What it is called with, by name; a secret only as {{secret:name}}.
        policy: How long an attempt may take, retries, and what happens when runs overlap.
        notify: Recipients of the outcome: callback addresses and a channel.
    """


def _heartbeat(
    file: str = DEFAULT_ORDERS_FILE,
    agent: str = "default",
    gate_agent: str = "",
    model: str = "",
    session: Session = "reuse",
    session_key: str = "",
    policy: Policy = Policy(retries=0, catch_up="none"),  # noqa: B008 - immutable
    notify: Notify = Notify(),  # noqa: B008 - immutable
) -> None:
    """A look at standing orders, and what they call for.

    Args:
        file: The standing orders, in words; a relative name is one in Daybook's home.
        agent: The agent's name, as `daybook agents list` shows it.
        gate_agent: The agent that is asked first whether there is anything to do; empty is the
            same one.
        model: The model that a model agent is to use instead of its own; empty is its own.
        session: Whether its runs continue one conversation, each begins a new one, or they
            continue that of their channel and chat id (chat).
        session_key: The name of a conversation that several jobs of one agent share; empty is the
            heartbeat's own.
        policy: How long an attempt may take, retries, and what happens when runs overlap.
        notify: Recipients of the outcome: callback addresses and a channel.
    """


PROTOTYPES: dict[str, Callable[..., None]] = {
    "agent-prompt": _agent_prompt,
    "webhook": _webhook,
    "tool-call": _tool_call,
    "heartbeat": _heartbeat,
}
"""One prototype per kind; the kind is the flow's name."""


def entrypoint(kind: str) -> str:
    """Return the entrypoint of a kind's flow, as Prefect writes it: file and function."""
    name = kind.replace("-", "_")
    return f"flows/{name}.py:{name}"


def kind_of(entrypoint: str | None) -> str | None:
    """Return the kind whose flow an entrypoint names, by file or module; None for others."""
    name = (entrypoint or "").removeprefix("./")
    for kind in PROTOTYPES:
        function = kind.replace("-", "_")
        if name in (f"flows/{function}.py:{function}", f"flows.{function}.{function}"):
            return kind
    return None


@cache
def schema(kind: str) -> dict[str, Any]:
    """Return the parameter schema of a kind's flow, as Prefect makes it from a signature."""
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(PROTOTYPES[kind]).model_dump_for_openapi()


def execution_fields(kind: str) -> dict[str, Any]:
    """Return the deployment fields that run a job of this kind, which no user edits."""
    return {
        "entrypoint": entrypoint(kind),
        "pull_steps": PULL_STEPS,
        "work_pool_name": WORK_POOL,
        "parameter_openapi_schema": schema(kind),
    }
