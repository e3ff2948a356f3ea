"""The settings for replicas of Prefect: this Prefect knows each of them, and our server agrees."""

from __future__ import annotations

import importlib
from pathlib import Path

import prefect.settings
import yaml

from daybook.operations.server import FOR_OVERLOAD
from daybook.worker.run_queue import LARGE_PAGE_SIZE

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"


def _fleet_settings() -> dict[str, str]:
    lines = (DEPLOYMENTS / "fleet" / "prefect.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_each_setting_is_one_of_prefect_and_each_module_exists() -> None:
    given = _fleet_settings()
    assert given.pop("DO_NOT_TRACK") == "1"
    for name in given:
        assert hasattr(prefect.settings, name), name
    modules = {value for value in given.values() if value.startswith("prefect_redis.")}
    assert len(modules) == 4
    for each in modules:
        importlib.import_module(each)


def test_each_server_lists_as_many_runs_as_a_worker_asks_for() -> None:
    found = yaml.safe_load((DEPLOYMENTS / "kubernetes" / "prefect.yaml").read_text())
    [in_kubernetes] = [each["data"] for each in found["items"] if each["kind"] == "ConfigMap"]
    assert int(FOR_OVERLOAD["PREFECT_SERVER_API_DEFAULT_LIMIT"]) == LARGE_PAGE_SIZE
    for settings in (_fleet_settings(), in_kubernetes):
        assert {name: settings[name] for name in FOR_OVERLOAD} == FOR_OVERLOAD
