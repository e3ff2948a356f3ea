"""Checks of a heartbeat, and the prompts for its agents.

::

    the standing orders are missing or blank ──► skip, without a request to an agent
    the job's check, if it has one ────────────► skip, or go on
    the agent of the check ────────────────────► skip, or run: the agent gets the orders
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from prefect.client.orchestration import get_client

from daybook import home, plain_text
from daybook.errors import InvalidInput
from daybook.execution import agent_lookup, checks, conversation
from daybook.execution.checks import Verdict
from daybook.jobs.actions import Heartbeat
from daybook.jobs.model import read_parameters
from daybook.runs.claim_requests import Granted

_SHARED_PARAMETERS = (
    "agent",
    "fallback_agents",
    "model",
    "session",
    "session_key",
    "policy",
    "notify",
)
"""Parameters that a heartbeat shares with an agent prompt."""

_CHECK_PROMPT = """\
It is {{due}}. An agent has the standing orders below. Wake it only if they \
require something to be done now.

"""

_PROMPT = """\
It is {{due}}. Follow your standing orders below: do what they require now, and report in a \
few words what is worth knowing. If there is nothing to report, answer with [SILENT] alone.

"""


def as_agent_prompt(granted: Granted) -> Granted:
    """Return the claim of a heartbeat with the parameters of an agent prompt, for `prepare_act`.

    The variables of the standing orders in it are not filled in yet. Raise `InvalidInput` without
    orders, and the `InvalidInput` of `read`.
    """
    action, _, _ = read_parameters("heartbeat", granted.parameters)
    assert isinstance(action, Heartbeat)
    parameters = {name: granted.parameters[name] for name in _SHARED_PARAMETERS}
    return replace(granted, parameters=parameters | {"prompt": _prompt(action.file)})


def _prompt(file: str) -> str:
    try:
        text = read(file)
    except FileNotFoundError:
        text = ""
    if not text:  # the check found orders, but they have been deleted since
        raise InvalidInput("file", f"{path_of(file)} is missing or blank now")
    return _PROMPT + text


async def check(granted: Granted) -> Verdict:
    """Decide whether there is anything to do. Without standing orders, ask no agent.

    Raise `CheckFailed`, and the errors of an unreachable ledger or Prefect.
    """
    return await checks.run_check("heartbeat", lambda: _check(granted))


async def _check(granted: Granted) -> Verdict:
    action, _, _ = read_parameters("heartbeat", granted.parameters)
    assert isinstance(action, Heartbeat)
    try:
        text = read(action.file)
    except FileNotFoundError:
        return Verdict(opens=False, reason=f"{action.file} is missing")
    if not text:
        return Verdict(opens=False, reason=f"{action.file} is blank")
    loop = asyncio.get_running_loop()
    began = loop.time()
    job_verdict = await checks.check_job(granted)
    if not job_verdict.opens:
        return job_verdict
    async with get_client() as client:
        agent = await agent_lookup.find_agent(client, action.gate_agent or action.agent)
    question = conversation.render_prompt(granted, _CHECK_PROMPT + text)
    verdict = await checks.ask_agent(
        agent, question, job_verdict.apply(granted), job_verdict.usage, loop.time() - began
    )
    return replace(verdict, found=job_verdict.found if verdict.opens else None)


MAX_CHARACTERS = 100_000
"""Maximum length of the file in characters; the check's and the run's agent get all of it."""


def path_of(file: str) -> Path:
    """Return the file's path; a relative path is relative to the home.

    Raise `InvalidInput` if ~ cannot be resolved.
    """
    try:
        return home.current_home().path / Path(file).expanduser()
    except RuntimeError as error:
        raise InvalidInput("file", f"{file} cannot be resolved: {error}") from None


def read(file: str) -> str:
    """Return the stripped text of the file.

    Raise FileNotFoundError if there is no such file, and `InvalidInput` if it is not a file, cannot
    be read, or is longer than `MAX_CHARACTERS`.
    """
    path = path_of(file)
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise InvalidInput("file", f"{path} is not a file")
        with path.open(encoding=plain_text.ENCODING, errors="replace") as stream:
            text = stream.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidInput("file", f"{path} cannot be read: {error.strerror}") from None
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            "file", f"{path} is too long", f"use at most {MAX_CHARACTERS:,} characters"
        )
    return text.strip()
