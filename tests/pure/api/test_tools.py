"""The API models of tools, and the JSON that the command line prints for them."""

from __future__ import annotations

import json

import pytest

from daybook.api.tools import ListedTool, ToolDetails, ToolList
from daybook.cli import output
from daybook.tools.base import ToolInfo

TOOL = ToolInfo("search.find", "Finds.", {"type": "object"}, "search")
PRINTED = {
    "name": "search.find",
    "description": "Finds.",
    "schema": {"type": "object"},
    "source": "search",
}


def test_the_schema_of_a_tool_is_printed_as_schema(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(ToolList(tools=[ListedTool.of(TOOL)], absent={"web": "gone"}))
    output.print_json_line(ToolDetails(**dict(ListedTool.of(TOOL)), jobs=["finds"]))
    listed, _, details = capsys.readouterr().out.rstrip().rpartition("\n")
    assert json.loads(listed) == {"tools": [PRINTED], "absent": {"web": "gone"}}
    assert list(json.loads(details).items()) == [*PRINTED.items(), ("jobs", ["finds"])]
