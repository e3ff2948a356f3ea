"""The examples of docs/guides/programs.md compile, and match the real signatures."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

import daybook
from daybook import registry
from daybook.features.tasks import client as task_client
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "guides" / "programs.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_uses_existing_names_with_valid_arguments(block: str) -> None:
    """Check that the names exist, and that the calls fit their signatures."""
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "daybook":
            assert hasattr(daybook, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            _check(node, node.func)


OWNERS: dict[str, object] = {
    "daybook": daybook,
    "client": daybook.Client,
    "daybook.Client()": daybook.Client,
    "client.tasks": task_client.Tasks,
    "client.tasks.sessions": task_client.TaskSessions,
    "client.tasks.scheduler": task_client.TaskScheduler,
    "tasks": daybook.Recurring,
}


def _check(call: ast.Call, function: ast.Attribute) -> None:
    owner = OWNERS.get(ast.unparse(function.value))
    if owner is not None:
        positional = [None] * (len(call.args) + (owner is not daybook))
        named = dict.fromkeys(each.arg for each in call.keywords if each.arg)
        inspect.signature(getattr(owner, function.attr)).bind(*positional, **named)


@pytest.mark.parametrize("block", [each for each in BLOCKS if "pydantic_ai" in each])
def test_the_example_for_pydantic_ai_runs(block: str) -> None:
    exec(compile(block, "programs.md", "exec"), {})


@pytest.mark.parametrize("block", [each for each in BLOCKS if "@daybook." in each])
def test_an_example_registers_its_decorated_functions(block: str) -> None:
    with registry.isolated():
        exec(compile(block, "programs.md", "exec"), {"__name__": "my_app.jobs"})
        found = registry.known_names(registry.TOOLS) + registry.known_names(registry.LISTENERS)
    names = re.findall(r"@daybook\.tool\(\"(\w+)\"\)", block)
    names += re.findall(r"@daybook\.listener\n(?:async )?def (\w+)", block)
    assert found == [each if "tool" in block else f"my_app.jobs.{each}" for each in names]


def test_every_public_name_and_client_method_is_documented() -> None:
    for name in daybook.__all__:
        assert f"`{name}`" in TEXT
    for verb in (each for each in vars(daybook.Client) if not each.startswith("_")):
        assert f"`{verb}`" in TEXT
