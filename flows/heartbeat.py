"""The flow of `heartbeat` jobs: reads standing orders, and has an agent do what they require.

::

    the file is missing or blank ──► skipped, without a request to an agent
    check: is there anything to do? ──► skip: skipped · an invalid answer: failed
    run ──► the agent does it, in its own conversation; the job's channel gets the reply

It runs from a deployment, by `run_deployment("heartbeat/<slug>")`, or is called in a script::

    import asyncio
    from flows.heartbeat import heartbeat

    asyncio.run(heartbeat(file="~/orders.md"))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daybook import home

home.configure_prefect()  # before Prefect is imported: Prefect reads its environment once

from prefect import flow
from prefect.client.schemas.objects import State

from daybook import repository
from daybook.execution import heartbeat as beat
from daybook.execution.attempt import Act
from daybook.execution.execute import carry_out
from daybook.jobs.actions import DEFAULT_ORDERS_FILE, Heartbeat, Session
from daybook.jobs.model import read_parameters
from daybook.jobs.notify import Notify
from daybook.jobs.policy import Policy
from daybook.prefect.reconcile import PrefectReconciler
from daybook.runs.claim_requests import Granted

repository.load_entry_point("deployments/steps.py").make_pool_when_deploying()


@flow(name="heartbeat", persist_result=False, retries=0)  # see flows/agent_prompt.py
async def heartbeat(
    file: str = DEFAULT_ORDERS_FILE,
    agent: str = "default",
    gate_agent: str = "",
    model: str = "",
    session: Session = "reuse",
    session_key: str = "",
    policy: Policy = Policy(retries=0, catch_up="none"),  # noqa: B008 - immutable
    notify: Notify = Notify(),  # noqa: B008 - immutable
) -> State[Any]:
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
    parameters: dict[str, Any] = {
        "file": file,
        "agent": agent,
        "gate_agent": gate_agent,
        "model": model,
        "session": session,
        "session_key": session_key,
        "policy": policy.model_dump(mode="json"),
        "notify": notify.model_dump(mode="json"),
    }
    return await carry_out("heartbeat", parameters, _prepare, PrefectReconciler(), check=beat.check)


async def _prepare(granted: Granted) -> Act:
    """The orders as the prompt of an agent; nothing of it has an effect."""
    action, _, _ = read_parameters("heartbeat", granted.parameters)
    assert isinstance(action, Heartbeat)
    asked = {name: granted.parameters[name] for name in beat.SHARED_PARAMETERS}
    asked["prompt"] = beat.prompt(action.file)
    prepare = repository.load_entry_point("flows/agent_prompt.py")._prepare
    act: Act = await prepare(replace(granted, parameters=asked))
    return act
