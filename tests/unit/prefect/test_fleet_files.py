"""The settings for replicas of Prefect: this Prefect knows each of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import prefect.settings

FILE = Path(__file__).parents[3] / "deployments" / "fleet" / "prefect.env"


def test_each_setting_is_one_of_prefect_and_each_module_exists() -> None:
    lines = FILE.read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert given.pop("DO_NOT_TRACK") == "1"
    for name in given:
        assert hasattr(prefect.settings, name), name
    modules = {value for value in given.values() if value.startswith("prefect_redis.")}
    assert len(modules) == 4
    for each in modules:
        importlib.import_module(each)
