"""What the process of one run does (`entry.Program`): it enters a flow, or runs a flow's hooks.

``prepare`` is for the parent of forked children. It imports Prefect's engine and our flows, and
starts no thread: no logging by Prefect's loggers, no client.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import runpy
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy.orm import configure_mappers

from daybook import home, repository
from daybook.prefect import private_names
from daybook.worker import orphan_guard
from daybook.worker.child_setup import write_at_once
from daybook.worker.messages import Task

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

NOT_FOUND = 127
INTERPRETER = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_")
"""What an interpreter reads at its start only: a child with other values needs a fresh one."""
LATER = (
    "aiosqlite",
    "anyio._backends._asyncio",
    "encodings.idna",
    "prefect.deployments.steps",
    "rich._emoji_codes",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "daybook.ledger.engine",
    "daybook.execution.execute",
)
"""Modules that a run imports on its way."""

LEARNED = (
    "asyncpg",
    "daybook.",
    "encodings.",
    "mcp",
    "pydantic_ai.models.",
    "pydantic_ai.providers.",
    "sqlalchemy.dialects.postgresql.",
    "tz",
)
"""Beginnings of modules that one run imports and the parent is to import for the next: the software
of a model's provider takes a second or two, and nobody knows before which one is used. So it is
with the ledger's database, and with the protocol of tool servers: 0.4 s of CPU for each call."""

_born: dict[str, str] = dict(os.environ)
_entered: dict[str, str] = {}
"""The environment when Prefect was imported; it is what `home.enter` made of the one before."""
_prepared: set[str] = set()
_paths: list[str] = list(sys.path)


def prepare() -> None:
    """Import what every child needs, once."""
    repository.enter()
    home.enter()
    _entered.update(os.environ)
    for name in ("prefect.engine", "prefect.flow_engine", *LATER):
        importlib.import_module(name)
    for door in sorted((repository.root() / "flows").glob("*.py")):
        if door.name != "__init__.py":
            repository.load_door(f"flows/{door.name}")
    configure_mappers()  # of the ledger's tables: each child would do it for its first query
    private_names.share_tls_contexts()
    _prepared.update(sys.modules)


def run(task: Task, status: int, fresh: bool) -> int:
    """Carry out ``task``; the exit code. Leaves by `SystemExit` where Prefect's engine does."""
    write_at_once()
    if task.mode != "ours":
        os.close(status)  # nobody in there knows of it
    if not fresh and task.environment:
        os.environ.clear()
        os.environ.update(task.environment)
        time.tzset()
    if task.folder:
        os.chdir(task.folder)
    os.environ["PREFECT__FLOW_RUN_ID"] = str(task.flow_run["id"])
    # The worker runs them, when the process is gone.
    os.environ["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] = "false"
    match task.mode:
        case "ours":
            return _ours(task, status, fresh)
        case "engine" if task.command:
            _execute(shlex.split(task.command))
        case "engine":
            return _engine(fresh)
        case "hooks":
            return _hooks(task, fresh)


def _ours(task: Task, status: int, fresh: bool) -> int:
    repository.enter()
    home.enter()
    if not fresh:  # where it does nothing: Prefect is imported
        for name in _entered.keys() - _born.keys():
            os.environ.setdefault(name, _entered[name])
        _settle_environment()
    from prefect.client.schemas.objects import FlowRun
    from prefect.engine import handle_engine_signals
    from prefect.flow_engine import run_flow
    from prefect.logging.loggers import flow_run_logger

    from daybook.execution import handover

    orphan_guard.watch(status)
    if task.handover is not None:
        handover.receive(**task.handover, descriptor=status)
    door = task.kind.replace("-", "_")
    flow = getattr(repository.load_door(f"flows/{door}.py"), door)
    flow_run = FlowRun.model_validate(task.flow_run)
    logger: Any = flow_run_logger(flow_run)
    try:
        with handle_engine_signals(flow_run.id):
            running = run_flow(flow, flow_run=flow_run, error_logger=logger)
            assert isinstance(running, Coroutine)
            asyncio.run(running)
    finally:
        if not fresh:
            _teach(status)
    return 0


def _teach(status: int) -> None:
    """Tell what was imported and is worth to be imported in the parent."""
    new = sorted(name for name in sys.modules.keys() - _prepared if name.startswith(LEARNED))
    if new:
        with suppress(OSError):
            os.write(status, json.dumps({"imported": new}).encode() + b"\n")


def _engine(fresh: bool) -> int:
    """As ``python -m prefect.engine`` in this folder."""
    if not fresh and _needs_fresh_interpreter():
        _execute([sys.executable, "-m", "prefect.engine"])
    _as_if_fresh(fresh)
    sys.argv = ["prefect.engine"]
    # That the module is imported already is what the fork is for.
    warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    return 0


def _hooks(task: Task, fresh: bool) -> int:
    """The flow's hooks, one after the other; one that fails is logged and keeps none from its turn.

    1 when the flow could not be loaded or a hook failed.
    """
    if not fresh and _needs_fresh_interpreter():
        # The letter is read again by the fresh one: only the environment differs.
        from daybook.worker import child_setup

        child_setup.exec_fresh(__name__, task, os.open(os.devnull, os.O_WRONLY))
    _as_if_fresh(fresh)
    from prefect.client.schemas.objects import FlowRun
    from prefect.flow_engine import load_flow
    from prefect.logging.loggers import flow_run_logger

    flow_run = FlowRun.model_validate(task.flow_run)
    try:
        flow = load_flow(flow_run)
    except Exception:
        flow_run_logger(flow_run).warning(
            "The flow could not be loaded for its %s hooks", task.hook, exc_info=True
        )
        return 1
    hooks = flow.on_crashed_hooks if task.hook == "crashed" else flow.on_cancellation_hooks
    done = [_called(hook, flow, flow_run) for hook in hooks]
    return 0 if all(done) else 1


def _called(hook: Any, flow: Flow[Any, Any], flow_run: FlowRun) -> bool:
    from prefect.logging.loggers import flow_run_logger

    logger: Any = flow_run_logger(flow_run, flow)
    name = getattr(hook, "__name__", repr(hook))
    state: State[Any] | None = flow_run.state
    logger.info("Running hook %r in response to entering state %r", name, state and state.name)
    try:
        answer = hook(flow, flow_run, state)
        if inspect.isawaitable(answer):
            asyncio.run(_awaited(answer))
    except Exception:
        logger.error("An error was encountered while running hook %r", name, exc_info=True)
        return False
    logger.info("Hook %r finished running successfully", name)
    return True


async def _awaited(answer: Any) -> None:
    await answer


def _execute(command: list[str]) -> NoReturn:
    """Become ``command``, found on the task's path, with the dispositions of a new process."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except (OSError, IndexError) as error:
        print(f"{shlex.join(command)}: {error}", file=sys.stderr)
        sys.exit(NOT_FOUND)


def _as_if_fresh(fresh: bool) -> None:
    """Look for modules where a fresh interpreter in this folder would, and know none of our doors.

    A flow of somebody else's may have packages called ``flows`` or ``blocks``.
    """
    sys.path[:] = [os.getcwd(), *_paths[1:]]
    importlib.invalidate_caches()
    if fresh:
        return
    doors = tuple(str(repository.root() / door) + os.sep for door in ("flows", "blocks"))
    for name, module in list(sys.modules.items()):
        if str(module.__dict__.get("__file__") or "").startswith(doors):
            del sys.modules[name]
    _settle_environment()


def _settle_environment() -> None:
    """Have Prefect read its settings again where this task's differ from those of the parent."""
    if _prefect(os.environ) != _prefect(_entered):
        private_names.reread_settings()


def _prefect(environment: Mapping[str, str]) -> dict[str, str]:
    """Prefect's settings; names with two underscores are messages to its engine."""
    named = {k: v for k, v in environment.items() if k.startswith("PREFECT_")}
    return {k: v for k, v in named.items() if not k.startswith("PREFECT__")}


def _needs_fresh_interpreter() -> bool:
    def own(environment: Mapping[str, str]) -> dict[str, str]:
        return {k: v for k, v in environment.items() if k.startswith(INTERPRETER)}

    return own(os.environ) != own(_born)
