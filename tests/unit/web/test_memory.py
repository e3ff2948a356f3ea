"""The pages of notebooks: a person reads, edits and removes them."""

from __future__ import annotations

import httpx
import pytest

from daybook.features.memory import operations
from daybook.features.memory.page import MAX_FORM_TEXT, MESSAGES
from daybook.ledger.engine import sharing
from tests.unit.web.submitting import Forms, submit
from tests.world import World

pytestmark = pytest.mark.anyio


async def notebook(world: World, text: str = "<b>tea</b>") -> str:
    """Create a notebook with a text; return the path of its page."""
    with sharing(world.ledger):
        await operations.create("house")
        return f"/memory/{(await operations.write('house', text)).id}"


async def text_of(world: World) -> str:
    with sharing(world.ledger):
        return (await operations.show("house")).text


async def test_a_person_edits_a_notebook(world: World, browser: httpx.AsyncClient) -> None:
    page = await notebook(world)
    assert page in (await browser.get("/memory")).text
    assert "&lt;b&gt;tea" in (await browser.get(page)).text

    _, after = await submit(browser, page, f"{page}/edit", text="coffee\r\nmilk")
    assert after.status == MESSAGES["notebook-edited"]
    assert await text_of(world) == "coffee\nmilk"
    assert "&lt;b&gt;tea" in (await browser.get(f"{page}?version=1")).text


async def test_a_text_that_others_changed_meanwhile_stays_in_the_form(
    world: World, browser: httpx.AsyncClient
) -> None:
    page = await notebook(world)
    shown = await browser.get(page)
    (form,) = [each for each in Forms(shown.text).forms if each.action.endswith("edit")]
    with sharing(world.ledger):
        await operations.write("house", "milk")
    fields = {**dict(form.fields), "text": "coffee"}

    answer = await browser.post(
        f"{page}/edit", data=fields, headers={"origin": "http://127.0.0.1:4280"}
    )

    assert answer.status_code == 400 and "was changed meanwhile" in answer.text
    (again,) = [each for each in Forms(answer.text).forms if each.action.endswith("edit")]
    assert dict(again.fields)["text"] == "coffee"
    assert await text_of(world) == "milk"


async def test_a_person_removes_a_notebook(world: World, browser: httpx.AsyncClient) -> None:
    page = await notebook(world)
    _, after = await submit(browser, page, f"{page}/remove")
    assert after.status == MESSAGES["notebook-removed"]
    assert (await browser.get(page)).status_code == 404


async def test_a_text_that_is_too_long_for_a_form_is_only_shown(
    world: World, browser: httpx.AsyncClient
) -> None:
    page = await notebook(world, "x" * (MAX_FORM_TEXT + 1))
    text = (await browser.get(page)).text
    assert "x" * MAX_FORM_TEXT in text and f"{page}/edit" not in text
