"""Program of a run's process (`child_setup.Program`): executes a flow, or runs a flow's hooks.

`prepare` runs in the parent of forked children. It imports Prefect's engine and Daybook's flows,
and rehearses a run in the ledger. It must leave no thread, so it uses no client and none of
Prefect's loggers.
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
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy.orm import configure_mappers

from daybook import home, repository, settings
from daybook.ledger import engine
from daybook.prefect import known_answers, models, private_names
from daybook.prefect.known_answers import KnownAnswers
from daybook.worker import orphan_guard
from daybook.worker.child_setup import line_buffer_output
from daybook.worker.messages import LaunchRequest

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

EXIT_COMMAND_NOT_FOUND = 127
WARM_UP_SECONDS = 5.0
INTERPRETER_VARIABLE_PREFIXES = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_")
"""Prefixes of variables that an interpreter reads only when it starts.

A child with different values needs a fresh interpreter.
"""
PRELOADED_MODULES = (
    "aiosqlite",
    "anyio._backends._asyncio",
    "encodings.idna",
    "prefect.deployments.steps",
    "rich._emoji_codes",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "daybook.ledger.engine",
    "daybook.execution.execute",
)
"""Modules that each run would otherwise have to import."""

LEARNED_MODULE_PREFIXES = (
    "asyncpg",
    "daybook.",
    "encodings.",
    "mcp",
    "pydantic_ai.models.",
    "pydantic_ai.providers.",
    "sqlalchemy.dialects.postgresql.",
    "tz",
)
"""Prefixes of modules that the parent imports for later runs after one run has imported them.

The client library of a model provider takes a second or two to import, and the parent cannot
predict which provider a run uses. The same holds for the ledger's database driver and for the MCP
library, whose import takes 0.4 s of CPU.
"""

_start_environment: dict[str, str] = dict(os.environ)
_import_environment: dict[str, str] = {}
"""Environment with which Prefect was imported: `_start_environment` after `configure_prefect`."""
_preloaded: set[str] = set()
_entry_points: list[str] = []
"""Names of the imported modules that are Daybook's entry points."""
_search_path: list[str] = list(sys.path)


def prepare() -> None:
    """Import the modules that every child needs, once."""
    repository.enter()
    home.configure_prefect()
    _import_environment.update(os.environ)
    for name in ("prefect.engine", "prefect.flow_engine", *PRELOADED_MODULES):
        importlib.import_module(name)
    repository.load_flows()
    configure_mappers()  # otherwise each child would do this at its first query
    private_names.share_tls_contexts()
    models.complete()
    _warm_up_ledger()
    _preloaded.update(sys.modules)
    _entry_points[:] = _find_entry_points()


def _warm_up_ledger() -> None:
    """Let the children inherit the queries of the ledger, unless it is unreachable or locked."""
    try:
        from daybook.execution import rehearsal

        async def warm_up() -> None:
            async with asyncio.timeout(WARM_UP_SECONDS):
                await engine.warm_up(settings.load().ledger_address, rehearsal.rehearse)

        asyncio.run(warm_up())
    except Exception as error:  # the children compile their statements themselves
        print(f"no rehearsal: {error!r}", file=sys.stderr)
    end = time.monotonic() + WARM_UP_SECONDS
    while threading.active_count() > 1 and time.monotonic() < end:  # of closed connections
        time.sleep(0.01)


def _find_entry_points() -> list[str]:
    folders = tuple(str(repository.root() / name) + os.sep for name in ("flows", "blocks"))
    return [
        name
        for name, module in sys.modules.items()
        if str(module.__dict__.get("__file__") or "").startswith(folders)
    ]


def run(task: LaunchRequest, status: int, fresh: bool) -> int:
    """Carry out ``task``; return the exit code. Prefect's engine may raise `SystemExit`."""
    line_buffer_output()
    if task.mode == "hooks":
        os.close(status)
    if not fresh and task.environment:
        os.environ.clear()
        os.environ.update(task.environment)
        time.tzset()
    if task.folder:
        os.chdir(task.folder)
    os.environ["PREFECT__FLOW_RUN_ID"] = str(task.flow_run["id"])
    # The worker runs these hooks after the process has ended.
    os.environ["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] = "false"
    match task.mode:
        case "ours":
            return _run_flow(task, status, fresh)
        case "engine" if task.command:
            _execute(shlex.split(task.command))
        case "engine":
            return _run_engine(task, status, fresh)
        case "hooks":
            return _run_hooks(task, fresh)


def _run_flow(task: LaunchRequest, status: int, fresh: bool) -> int:
    modules = len(sys.modules)
    repository.enter()
    if fresh or task.environment:  # otherwise, the parent has done it in `prepare`
        home.configure_prefect()
    if not fresh:  # Prefect is already imported, so `home.configure_prefect` came too late
        for name in _import_environment.keys() - _start_environment.keys():
            os.environ.setdefault(name, _import_environment[name])
        _update_prefect_settings()
    from prefect.client.schemas.objects import FlowRun
    from prefect.engine import handle_engine_signals
    from prefect.flow_engine import run_flow
    from prefect.logging.loggers import flow_run_logger

    from daybook.execution import handover

    orphan_guard.watch(status, task.parent_pid)
    if task.handover is not None:
        handover.receive(**task.handover, descriptor=status)
    name = task.kind.replace("-", "_")
    flow = getattr(repository.load_entry_point(f"flows/{name}.py"), name)
    flow_run = FlowRun.model_validate(task.flow_run)
    _use_known_answers(task)
    logger: Any = flow_run_logger(flow_run)
    try:
        with handle_engine_signals(flow_run.id):
            running = run_flow(flow, flow_run=flow_run, error_logger=logger)
            assert isinstance(running, Coroutine)
            asyncio.run(running)
    finally:
        # A look at all modules would copy the memory that this process shares with its parent.
        if not fresh and len(sys.modules) > modules:
            _report_imports(status)
    return 0


def _use_known_answers(
    task: LaunchRequest, ended: Callable[[str], None] = lambda state: None
) -> None:
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if address is not None:
        is_own = task.mode == "ours"
        known = KnownAnswers(address, task.flow_run, task.known, ended, is_own=is_own)
        known_answers.install(known)
    private_names.watch_runs_later()


def _report_imports(status: int) -> None:
    """Report the modules that this run imported, for the parent to import."""
    imported = sorted(
        name for name in sys.modules.keys() - _preloaded if name.startswith(LEARNED_MODULE_PREFIXES)
    )
    if imported:
        with suppress(OSError):
            os.write(status, json.dumps({"imported": imported}).encode() + b"\n")


def _run_engine(task: LaunchRequest, status: int, fresh: bool) -> int:
    """Do the same as ``python -m prefect.engine`` in this folder; report the run's end."""
    if not fresh and _needs_fresh_interpreter():
        _execute([sys.executable, "-m", "prefect.engine"])
    _as_if_fresh(fresh)

    def report_end(state: str) -> None:
        with suppress(OSError):
            os.write(status, json.dumps({"ended": state}).encode() + b"\n")

    _use_known_answers(task, report_end)
    sys.argv = ["prefect.engine"]
    # The parent imports this module on purpose.
    warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    return 0


def _run_hooks(task: LaunchRequest, fresh: bool) -> int:
    """Run the flow's hooks one after another.

    If a hook fails, log that and run the rest. Return 1 if the flow could not be loaded or a hook
    failed.
    """
    if not fresh and _needs_fresh_interpreter():
        # The fresh interpreter gets the same task; only its environment differs.
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
            "cannot load the flow for its %s hooks", task.hook, exc_info=True
        )
        return 1
    hooks = flow.on_crashed_hooks if task.hook == "crashed" else flow.on_cancellation_hooks
    done = [_call_hook(hook, flow, flow_run) for hook in hooks]
    return 0 if all(done) else 1


def _call_hook(hook: Any, flow: Flow[Any, Any], flow_run: FlowRun) -> bool:
    from prefect.logging.loggers import flow_run_logger

    logger: Any = flow_run_logger(flow_run, flow)
    name = getattr(hook, "__name__", repr(hook))
    state: State[Any] | None = flow_run.state
    logger.info("Running hook %r in response to entering state %r", name, state and state.name)
    try:
        result = hook(flow, flow_run, state)
        if inspect.isawaitable(result):
            asyncio.run(_await_result(result))
    except Exception:
        logger.error("An error was encountered while running hook %r", name, exc_info=True)
        return False
    logger.info("Hook %r finished running successfully", name)
    return True


async def _await_result(result: Any) -> None:
    await result


def _execute(command: list[str]) -> NoReturn:
    """Replace this process with ``command``, found on the task's PATH.

    First restore the default handlers of SIGPIPE and SIGXFSZ. If the command cannot be executed,
    exit with `EXIT_COMMAND_NOT_FOUND`.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except (OSError, IndexError) as error:
        print(f"{shlex.join(command)}: {error}", file=sys.stderr)
        sys.exit(EXIT_COMMAND_NOT_FOUND)


def _as_if_fresh(fresh: bool) -> None:
    """Set the module search path to that of a fresh interpreter in this folder.

    Unless this is a ``fresh`` interpreter, also update Prefect's settings, and unload Daybook's
    entry points, because the flow's project may have packages called ``flows`` or ``blocks``.
    """
    sys.path[:] = [os.getcwd(), *_search_path]
    importlib.invalidate_caches()
    if fresh:
        return
    for name in _entry_points:  # found before the fork: a look at all modules copies their pages
        sys.modules.pop(name, None)
    _update_prefect_settings()


def _update_prefect_settings() -> None:
    """Make Prefect read its settings again if this task's settings differ from the parent's."""
    if _prefect_settings(os.environ) != _prefect_settings(_import_environment):
        private_names.reload_settings()


def _prefect_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return Prefect's settings, without the variables for its engine (``PREFECT__…``)."""
    named = {k: v for k, v in environment.items() if k.startswith("PREFECT_")}
    return {k: v for k, v in named.items() if not k.startswith("PREFECT__")}


def _needs_fresh_interpreter() -> bool:
    def interpreter_variables(environment: Mapping[str, str]) -> dict[str, str]:
        return {k: v for k, v in environment.items() if k.startswith(INTERPRETER_VARIABLE_PREFIXES)}

    return interpreter_variables(os.environ) != interpreter_variables(_start_environment)
