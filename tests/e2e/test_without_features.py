"""Each feature can be deleted, and all of them: a job still runs, and its outcome is recorded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from daybook.feature import Feature, features
from tests.amputation import copied_without
from tests.e2e.first_light import Up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

DELETED = {**{each.name: (each,) for each in features()}, "all": features()}


@pytest.mark.parametrize("deleted", DELETED.values(), ids=DELETED)
def test_daybook_works_without_a_feature(deleted: Sequence[Feature], tmp_path: Path) -> None:
    copy = copied_without(deleted, tmp_path / "copy")
    up = Up(tmp_path / "home", copy, variables={"PYTHONPATH": str(copy)})
    try:
        up.until(lambda lines: any(line.startswith("Ready") for line in lines), within=120)
        up.until(lambda _: bool(up.outcomes("first-light")), within=60)
        assert "succeeded" in up.outcomes("first-light")[0]

        assert up.shell(
            f"{sys.executable} -c 'import daybook; print(daybook.__file__)'"
        ).stdout.strip() == (str(copy / "daybook" / "__init__.py"))
        up.daybook_json("add", "every day at 9:00", "Say hello", "--name", "hello")
        up.daybook_json("agents", "add", "polite", "--command", "echo good morning")
        up.daybook_json("edit", "hello", "--agent", "polite")
        ran = up.daybook_json("run", "hello", "--wait")
        assert (ran["status"], ran["output"].strip()) == ("succeeded", "good morning")
        found = up.daybook_json("doctor")
        assert [each for each in found if each["severity"] == "problem"] == []
        own = [each for feature in deleted for each in feature.commands if each.section]
        words = {each.group or each.names[0] for each in own}
        for word in words:
            assert up.shell(f"{sys.executable} -m daybook {word} --help").returncode != 0
    finally:
        up.end()
