"""The form that edits and removes an agent, at a fake Prefect that has only block documents."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from daybook.agents import kinds
from daybook.api import agents
from daybook.errors import InvalidInput
from daybook.prefect import client as connection
from daybook.web.pages.forms import MESSAGES
from tests.unit.resources.prefect_blocks import FakePrefect, Steps
from tests.unit.web.submitting import Forms, everything, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio

MODEL = kinds.MODEL.slug
KEY = "sk-stored-key"
SETTINGS = {
    "model": "openai:small",
    "api_key": KEY,
    "system_prompt": "Be short.\nBe kind.",
    "tools": ["search"],
    "options": {"temperature": 0.5, "max_tokens": 100},
}
PAGE = f"/agents/{MODEL}/writer/edit"
REMOVE = f"/agents/{MODEL}/writer/remove"


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    """Return a Prefect with the agent `writer`, whose tools are not looked up."""
    fake = FakePrefect(tuple(kinds.KINDS.values()), Steps())
    fake.register()
    fake.ui(MODEL, "writer", **SETTINGS)

    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(connection, "connected", lambda *_: nullcontext(fake))
    monkeypatch.setattr(connection, "check_connection", nothing)
    monkeypatch.setattr(agents, "_check_tools", nothing)
    return fake


def stored(prefect: FakePrefect) -> dict[str, Any]:
    return prefect.holds()[MODEL, "writer"]


async def test_an_edit_changes_only_what_was_typed_and_never_shows_the_key(
    prefect: FakePrefect, browser: httpx.AsyncClient
) -> None:
    text = (await browser.get("/agents/writer/edit")).text
    (form,) = (each for each in Forms(text).forms if each.action == PAGE)
    assert dict(form.fields)["system_prompt"] == SETTINGS["system_prompt"]
    assert dict(form.fields)["api_key"] == ""
    assert KEY not in text
    assert "A value is stored" in text
    answer, after = await submit(browser, PAGE, PAGE, model="openai:large", request_limit="3")
    assert answer.headers["location"].startswith("/agents?")
    assert MESSAGES["document-edited"] in after.status
    changed = {"model": "openai:large", "request_limit": 3}
    assert stored(prefect).items() >= (SETTINGS | changed).items()


async def test_a_setting_that_an_agent_cannot_have_can_be_removed_from_it(
    prefect: FakePrefect,
) -> None:
    prefect.ui(kinds.COMMAND.slug, "coder", command=["claude", "-p"])
    await agents.edit("coder", {"stream": None})
    with pytest.raises(InvalidInput):
        await agents.edit("coder", {"stream": True})


async def test_the_setting_stream_can_be_removed(prefect: FakePrefect) -> None:
    for value in (False, None):
        await agents.edit("writer", {"stream": value})
        assert stored(prefect)["stream"] is value
    assert stored(prefect)["system_prompt"] == SETTINGS["system_prompt"]


@pytest.mark.parametrize("model", ["openai:ft:small:me::1", "openai:small:free"])
async def test_a_key_stays_with_another_model_of_its_provider(
    prefect: FakePrefect, browser: httpx.AsyncClient, model: str
) -> None:
    await submit(browser, PAGE, PAGE, model=model)
    assert (stored(prefect)["model"], stored(prefect)["api_key"]) == (model, KEY)


@pytest.mark.parametrize(
    "typed", [{"base_url": "http://127.0.0.1:9/v1"}, {"model": "anthropic:small"}]
)
async def test_a_key_goes_to_no_address_that_it_was_not_stored_for(
    prefect: FakePrefect, browser: httpx.AsyncClient, typed: dict[str, str]
) -> None:
    answer, _ = await submit(browser, PAGE, PAGE, **typed)
    assert "The stored key was deleted" in (await browser.get(answer.headers["location"])).text
    assert stored(prefect)["api_key"] == ""
    assert stored(prefect)["options"] == SETTINGS["options"]


async def test_an_edit_of_an_agent_that_others_changed_meanwhile_is_shown_and_not_stored(
    prefect: FakePrefect, browser: httpx.AsyncClient
) -> None:
    (form,) = (each for each in Forms((await browser.get(PAGE)).text).forms if each.action == PAGE)
    prefect.ui(MODEL, "writer", **{**SETTINGS, "model": "openai:large"})
    before = stored(prefect)
    typed = {"system_prompt": "Be long."}
    fields = [(name, typed.get(name, value)) for name, value in form.fields]
    answer = await post(browser, PAGE, fields)
    assert answer.status_code == 400
    assert "writer was changed meanwhile" in answer.text
    assert "<del>openai:small</del><ins>openai:large</ins>" in answer.text
    assert stored(prefect) == before
    (again,) = (each for each in Forms(answer.text).forms if each.action == PAGE)
    assert (await post(browser, PAGE, again.fields)).status_code == 303
    assert stored(prefect).items() >= (before | typed).items()


@pytest.mark.parametrize(
    ("typed", "invalid"),
    [({"model": ""}, "model"), ({"base_url": "ftp://x"}, "base_url"), ({"tools": "a b"}, "tools")],
)
async def test_a_mistake_is_shown_at_its_field_and_nothing_is_stored(
    prefect: FakePrefect, browser: httpx.AsyncClient, typed: dict[str, str], invalid: str
) -> None:
    before = stored(prefect)
    answer, after = await submit(browser, PAGE, PAGE, **typed)
    assert (answer.status_code, after.invalid) == (400, [invalid])
    assert stored(prefect) == before


async def test_an_agent_that_jobs_use_is_not_removed(
    world: World, prefect: FakePrefect, browser: httpx.AsyncClient
) -> None:
    unused = Forms((await browser.get(PAGE)).text)
    (form,) = (each for each in unused.forms if each.action == REMOVE)
    await world.jobs.add("brief", agent="writer", on_demand=True)
    text = (await browser.get(PAGE)).text
    assert REMOVE not in [each.action for each in Forms(text).forms]
    assert "/jobs?q=brief" in text
    before = await everything(world)
    answer = await post(browser, REMOVE, form.fields)
    assert answer.status_code == 400
    assert "is used by brief" in answer.text
    assert await everything(world) == before
    assert (MODEL, "writer") in prefect.holds()


async def test_an_agent_is_removed(prefect: FakePrefect, browser: httpx.AsyncClient) -> None:
    answer, after = await submit(browser, PAGE, REMOVE)
    assert answer.headers["location"].startswith("/agents?")
    assert after.status == MESSAGES["document-removed"]
    assert not prefect.holds()
    gone = await browser.get(PAGE)
    assert (gone.status_code, "writer" in gone.text) == (404, True)
