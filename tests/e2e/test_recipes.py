"""The recipes of the guide, each as printed, from an empty home to what it promises.

Servers of this machine stand for the site, the model, the mail server and the phone's chat, and a
program for Claude Code.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from daybook.home import Home
from tests import printed_steps, providers
from tests.conftest import REPOSITORY
from tests.contract.channels.conftest import receiving_letters
from tests.e2e.first_light import Up, environment
from tests.e2e.test_documented import Reader, assert_shown, steps_of
from tests.e2e.test_templates import site
from tests.providers import Answer, Provider
from tests.receiver import serving
from tests.servers import migrate
from tests.unit.features.repositories.projects import at, commit
from tests.unit.web.submitting import Forms
from tests.waiting import becomes_true

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.anyio]

PAGE = "docs/guides/recipes.md"
RECIPES = dict(part.split("\n", 1) for part in (REPOSITORY / PAGE).read_text().split("\n## ")[1:])
"""The text of each recipe, by its heading."""
PUBLIC = "https://daybook.example.org"
CLAUDE = """\
#!{python}
from pathlib import Path
Path("shop.py").write_text("def price():\\n    return 12\\n")
Path("test_shop.py").write_text("import shop\\nassert shop.price() == 12\\n")
print({lines!r}, end="")
"""
"""A program that answers as Claude Code, and has repaired the repository."""

WITHIN = 60.0


@asynccontextmanager
async def following(
    recipe: str,
    folder: Path,
    variables: Mapping[str, str],
    replaced: Mapping[str, str],
) -> AsyncIterator[Up]:
    """Run the commands of a recipe in an empty home. Yield its `daybook up`.

    ``replaced`` has replacements by regular expression, for hosts that are elsewhere.
    """
    home, terminal, empty = (folder / name for name in ("home", "terminal", "empty"))
    for each in (home, terminal, empty, folder / "user"):
        each.mkdir(exist_ok=True)
    migrate(Home(home))
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"PATH": programs, "HOME": str(folder / "user")} | dict(variables)
    for role in ("AUTHOR", "COMMITTER"):
        variables |= {f"GIT_{role}_NAME": "ana", f"GIT_{role}_EMAIL": "ana@example.org"}
    (terminal / "stdin.txt").write_text("")
    key = {"ANTHROPIC_API_KEY": providers.KEY, "FILES": str(terminal)}
    reader = Reader(terminal, environment(home) | key | variables, dict(replaced))
    running = await asyncio.to_thread(Up, home, empty, variables=variables)
    try:
        await asyncio.to_thread(
            running.until, lambda lines: any(each.startswith("Ready") for each in lines), 120
        )
        steps = list(steps_of(PAGE, RECIPES[recipe]))
        assert_shown(steps, await asyncio.to_thread(reader.run, steps))
        yield running
    finally:
        await asyncio.to_thread(running.end)


def at_provider(model: Provider) -> dict[str, str]:
    return {r"(--model anthropic:\S+)": rf"\1 --base-url {model.origin}"}


def written(folder: Path, name: str, text: str) -> None:
    """Write a file that the recipe says the reader has."""
    assert name in (REPOSITORY / PAGE).read_text()
    (folder / "terminal").mkdir()
    (folder / "terminal" / name).write_text(f"{text}\n")


async def test_a_brief_reads_the_web_and_arrives_by_mail(tmp_path: Path) -> None:
    async with receiving_letters() as letters:
        with site() as address, providers.provider() as model:
            page = {"url": f"{address}/news"}
            model.script = [
                Answer("", tool="web_fetch", arguments=page),
                lambda request: Answer(f"The news: {request.prompt}"),
            ]
            written(tmp_path, "mail.txt", letters.url())
            async with following(
                "A brief that reads the web and arrives by mail",
                tmp_path,
                {"DAYBOOK_ALLOWED_HOSTS": "127.0.0.1"},
                at_provider(model) | {r"https://news\.example\.org/": f"{address}/news"},
            ):

                async def has_come() -> bool:
                    return bool(letters.got)

                assert await becomes_true(has_come, WITHIN)
    ((receiver,),) = letters.to
    assert receiver == "me@there.example"
    (letter,) = letters.got
    texts = [each.get_payload(decode=True) for each in letter.walk() if not each.is_multipart()]
    assert any(b"The lighthouse was painted green." in bytes(each) for each in texts)


async def test_a_nightly_coding_job_lands_what_its_test_accepts(tmp_path: Path) -> None:
    shop, programs = tmp_path / "user" / "src" / "shop", tmp_path / "bin"
    for each in (shop, programs):
        each.mkdir(parents=True)
    at(shop, "init", "-q", "-b", "main")
    (shop / "shop.py").write_text("def price():\n    return 0\n")
    (shop / "Makefile").write_text("test:\n\t@python test_shop.py\n")
    commit(shop)
    at(shop, "switch", "-qc", "mine")
    lines = printed_steps.lines(printed_steps.claude_result("The price was 0.")).decode()
    claude = programs / "claude"
    claude.write_text(CLAUDE.format(python=sys.executable, lines=lines))
    claude.chmod(0o700)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    async with following("A nightly coding job", tmp_path, {"PATH": path}, {}):
        pass
    assert "return 12" in at(shop, "show", "main:shop.py")
    assert "assert shop.price()" in at(shop, "show", "main:test_shop.py")


async def test_a_person_approves_from_the_phone(tmp_path: Path) -> None:
    async with serving() as chat:
        with providers.provider() as model:
            greeting = {"text": "Have a good week."}
            model.script = [Answer("", tool="notify_send", arguments=greeting), Answer("Sent.")]
            written(tmp_path, "phone.txt", f"json://{chat.host}/")
            public = {"DAYBOOK_PUBLIC_URL": PUBLIC}
            async with following(
                "Approve from the phone", tmp_path, public, at_provider(model)
            ) as running:

                async def arrives(text: bytes) -> str:
                    async def has_come() -> bool:
                        return any(text in each.body for each in chat.requests)

                    assert await becomes_true(has_come, WITHIN), chat.requests
                    return next(each.body for each in chat.requests if text in each.body).decode()

                sent = b'"message": "Have a good week.'
                question = await arrives(b"/decide/")
                (link,) = re.findall(rf"{re.escape(PUBLIC)}(/decide/[\w.]+)", question)
                # The phone's request, as the proxy forwards it.
                headers = {"host": "daybook.example.org", "x-forwarded-for": "192.0.2.7"}
                url = str(running.facts()["web_url"])
                async with httpx.AsyncClient(
                    base_url=url, headers=headers, trust_env=False
                ) as phone:
                    page = (await phone.get(link)).text
                    assert "Have a good week." in page
                    assert not [each for each in chat.requests if sent in each.body]
                    approve = Forms(page).forms[0]
                    done = await phone.post(
                        approve.buttons[0],
                        data=dict(approve.fields),
                        headers={"origin": PUBLIC, "sec-fetch-site": "same-origin"},
                    )
                    assert done.status_code == 303, done.text
                await arrives(sent)
