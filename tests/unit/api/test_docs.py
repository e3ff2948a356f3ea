"""What docs/guides/programs.md shows can be imported, compiled and called so."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

import daybook
from daybook import registry
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "guides" / "programs.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_is_a_program(block: str) -> None:
    """Its names are there, and what it calls takes what it gives."""
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "daybook":
            assert hasattr(daybook, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            _check(node, node.func)


def _check(call: ast.Call, function: ast.Attribute) -> None:
    of_client = ast.unparse(function.value) in ("client", "daybook.Client()")
    of_daybook = ast.unparse(function.value) == "daybook"
    of_tasks = ast.unparse(function.value) == "tasks"
    owner = daybook.Client if of_client else daybook.Recurring if of_tasks else daybook
    if of_client or of_tasks or of_daybook:
        positional = [None] * (len(call.args) + (not of_daybook))
        named = dict.fromkeys(each.arg for each in call.keywords if each.arg)
        inspect.signature(getattr(owner, function.attr)).bind(*positional, **named)


@pytest.mark.parametrize("block", [each for each in BLOCKS if "pydantic_ai" in each])
def test_the_example_for_pydantic_ai_runs(block: str) -> None:
    exec(compile(block, "programs.md", "exec"), {})


@pytest.mark.parametrize("block", [each for each in BLOCKS if "@daybook." in each])
def test_an_example_registers_what_it_decorates(block: str) -> None:
    with registry.isolated():
        exec(compile(block, "programs.md", "exec"), {"__name__": "my_app.jobs"})
        found = registry.known_names(registry.TOOLS) + registry.known_names(registry.LISTENERS)
    names = re.findall(r"@daybook\.tool\(\"(\w+)\"\)", block)
    names += re.findall(r"@daybook\.listener\n(?:async )?def (\w+)", block)
    assert found == [each if "tool" in block else f"my_app.jobs.{each}" for each in names]


def test_every_name_and_verb_is_told() -> None:
    for name in daybook.__all__:
        assert f"`{name}`" in TEXT
    for verb in (each for each in vars(daybook.Client) if not each.startswith("_")):
        assert f"`{verb}`" in TEXT
