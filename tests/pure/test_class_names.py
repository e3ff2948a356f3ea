"""Classes: no two of them share a name, so that a name stands for one concept."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.conftest import REPOSITORY


def test_no_two_classes_share_a_name() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for package in ("daybook", "flows", "blocks", "deployments"):
        for file in (REPOSITORY / package).rglob("*.py"):
            for name in re.findall(r"^ *class (\w+)[(:\[]", file.read_text(), re.MULTILINE):
                modules[name].append(str(file.relative_to(REPOSITORY)))
    assert len(modules) > 500
    assert {name: files for name, files in modules.items() if len(files) > 1} == {}
