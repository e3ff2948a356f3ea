"""Forms of Daybook's pages, read and submitted as by a browser without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import sqlalchemy

from daybook.ledger.feature_tables import all_tables
from tests.unit.web.conftest import OWN
from tests.world import World


@dataclass
class Form:
    """A form of a page: its fields with their values, and the addresses of its buttons."""

    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[str] = field(default_factory=list)
    labelled: set[str] = field(default_factory=set)


class Forms(HTMLParser):
    """The forms of a page that write, and its problems by the id of their element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.problems: dict[str, str] = {}
        self.invalid: list[str] = []
        self.status = ""
        self._form: Form | None = None
        self._in_label = False
        self._read: str | None = None
        self._name = ""
        self._text: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("method") == "post":
            self._form = Form(given["action"])
            self.forms.append(self._form)
        elif tag == "label":
            self._in_label = True
        elif tag in ("input", "textarea", "select") and self._form is not None:
            self._name = given["name"]
            if self._in_label:
                self._form.labelled.add(given["name"])
            if given.get("aria-invalid"):
                self.invalid.append(given["name"])
                assert given["aria-describedby"] == f"{given['name']}-problem"
            if tag == "textarea":
                self._text = ""
            elif tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
                self._form.fields.append((given["name"], given.get("value", "")))
        elif tag == "option" and self._form is not None and "selected" in given:
            self._form.fields.append((self._name, given["value"]))
        elif tag == "button" and self._form is not None:
            self._form.buttons.append(given.get("formaction", self._form.action))
        if given.get("role") in ("alert", "status") and "hidden" not in given:
            self._read = given.get("id", "") if given["role"] == "alert" else "status"

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "textarea" and self._form is not None and self._text is not None:
            # A browser leaves out the line break after the start tag.
            self._form.fields.append((self._name, self._text.removeprefix("\n")))
            self._text = None
        elif tag == "label":
            self._in_label = False
        elif tag in ("p", "section"):
            self._read = None

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text += data
        elif self._read == "status":
            self.status += data
        elif self._read is not None:
            self.problems[self._read] = self.problems.get(self._read, "") + data


async def submit(
    browser: httpx.AsyncClient, page: str, action: str, **typed: str
) -> tuple[httpx.Response, Forms]:
    """Press the button of the page's form that posts to ``action``; return the answer and its page.

    Hidden fields are sent as they are; ``choice`` selects among forms with the same address.
    """
    choice = typed.pop("choice", None)
    forms = [
        each
        for each in Forms((await browser.get(page)).text).forms
        if action in each.buttons and (choice is None or choice in dict(each.fields).values())
    ]
    assert len(forms) == 1, (page, action, forms)
    form = forms[0]
    assert typed.keys() <= form.labelled
    fields = [(name, typed.get(name, value)) for name, value in form.fields]
    answer = await post(browser, action, fields)
    if answer.status_code == 303:
        address = answer.headers["location"]
        assert urlsplit(address).netloc == ""
        return answer, Forms((await browser.get(address)).text)
    return answer, Forms(answer.text)


async def post(
    browser: httpx.AsyncClient,
    path: str,
    fields: Sequence[tuple[str, str]],
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    headers = {"origin": OWN} if headers is None else headers
    return await browser.post(path, content=urlencode(fields), headers={**kind, **headers})


async def everything(world: World) -> dict[str, list[Any]]:
    """Return all rows of all tables but that of the devices, which records each use of a page."""
    async with world.ledger.read() as session:
        return {
            each.name: sorted((await session.execute(sqlalchemy.select(each))).all(), key=str)
            for each in all_tables()
            if each.name != "devices_devices"
        }
