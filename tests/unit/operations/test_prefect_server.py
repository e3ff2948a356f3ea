"""Prefect's server command with Daybook's changes, as the units of `deployments/fleet` run it."""

from __future__ import annotations

import runpy
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.server.api import workers
from prefect.utilities.schema_tools import validation

from daybook.operations import prefect_server, server
from daybook.prefect import private_names
from daybook.processes import garbage, open_files


def test_the_command_is_that_of_prefect_in_an_improved_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = list[Any]()
    patched: list[tuple[Any, str]] = [(garbage, "collect_rarely"), (garbage, "settle")]
    patched += [(server, "hide_parameters"), (private_names, "cache_time_zones")]
    for module, name in patched:
        monkeypatch.setattr(module, name, partial(done.append, name))
    monkeypatch.setattr(open_files, "raise_limit", done.append)
    monkeypatch.setattr(threading, "Timer", lambda _, function: SimpleNamespace(start=function))
    own = ((workers, "mark_deployments_ready"), (validation._VALIDATOR, "check_schema"))
    before = [getattr(*each) for each in own]
    for place, name in own:
        monkeypatch.setattr(place, name, vars(place)[name])  # restored at the end

    def run_module(name: str, **_: Any) -> None:
        changed = [getattr(*each) != was for each, was in zip(own, before, strict=True)]
        done.append((name, sys.argv[1:], changed))

    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["prefect_server.py", "services", "start"])
    prefect_server.main()
    assert done == [
        *("collect_rarely", "settle", server.MAX_OPEN_FILES),
        "hide_parameters",
        "cache_time_zones",
        ("prefect", ["server", "services", "start"], [True, True]),
    ]
