"""The form of a new agent; `tests/e2e/test_page_journeys.py` adds one."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.web.submitting import Forms, everything, submit
from tests.world import World

pytestmark = pytest.mark.anyio


async def test_the_form_has_the_settings_of_its_kind_and_no_secret(
    browser: httpx.AsyncClient,
) -> None:
    (model,) = Forms((await browser.get("/agents/new")).text).forms
    (command,) = Forms((await browser.get("/agents/new?variant=command")).text).forms
    names = {name for name, _ in model.fields}
    assert {"model", "base_url", "system_prompt", "request_limit"} <= names
    assert "api_key" in names
    assert {"command", "work_dir", "environment"} <= {name for name, _ in command.fields}


@pytest.mark.parametrize(
    ("kind", "typed", "invalid"),
    [
        ("model", {"model": ""}, "model"),
        ("model", {"model": "nobody:none"}, "model"),
        ("model", {"request_limit": "-1"}, "request_limit"),
        ("command", {"command": ""}, "command"),
        ("command", {"environment": "DAYBOOK_HOME"}, "environment"),
    ],
)
async def test_a_mistake_is_shown_at_its_field_and_nothing_is_stored(
    world: World, browser: httpx.AsyncClient, kind: str, typed: dict[str, str], invalid: str
) -> None:
    before = await everything(world)
    valid = {"model": {"model": "openai:x"}, "command": {"command": "/bin/cat"}}[kind]
    page = f"/agents/new?variant={kind}"
    given = {"name": "new", **valid, **typed}
    answer, after = await submit(browser, page, "/agents/new", **given)
    assert (answer.status_code, after.invalid) == (400, [invalid])
    assert ("name", "new") in after.forms[0].fields
    assert ("variant", kind) in after.forms[0].fields
    assert await everything(world) == before


async def test_no_agent_is_added_while_prefect_is_away(
    world: World, browser: httpx.AsyncClient
) -> None:
    before = await everything(world)
    typed = {"name": "new", "command": "/bin/cat"}
    answer, after = await submit(browser, "/agents/new?variant=command", "/agents/new", **typed)
    assert answer.status_code == 503
    assert "127.0.0.1:9" in after.problems[""]
    assert await everything(world) == before
