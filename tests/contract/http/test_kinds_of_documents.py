"""A new kind of settings document: its operations, copies, options and commands need no code."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from cyclopts import Parameter
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from pydantic import BaseModel, Field, SecretStr

from daybook.api import documents as api_documents
from daybook.api.documents import Documents
from daybook.cli import documents
from daybook.cli.field_options import FieldOptions, options_of, with_options
from daybook.errors import InvalidInput, NotFound
from daybook.home import Home
from daybook.keeper import blocks
from daybook.markers import Marker
from daybook.resources.store import BlockStore, DocumentInfo
from tests.at_prefect import knowing_our_blocks

pytestmark = pytest.mark.anyio


class NoteSettings(BaseModel):
    """Settings of a note."""

    text: Annotated[str, Marker(option="words")] = Field(min_length=3, description="Its text.")
    color: Literal["red", "blue"] = Field(default="red", description="Its color.")
    wait: Annotated[float, Marker(syntax="seconds")] = Field(default=1.0, description="A delay.")
    pin: SecretStr = Field(default=SecretStr(""), description="Its pin.")


STORE = BlockStore(slug="daybook-note", title="Daybook note", noun="note", model=NoteSettings)
NOTES = Documents(STORE, DocumentInfo)


class NoteBlock(NoteSettings, Block):
    """A note."""

    _block_type_name = STORE.title
    _block_type_slug = STORE.slug


@Parameter(name="*")
@with_options({"": options_of(NoteSettings.model_fields, *NoteSettings.model_fields)})
class NoteOptions(FieldOptions):
    """Options of a command that adds a note."""


list_ = documents.list_command("daybook.api.notes:list_notes", "List notes.", print)
show_ = documents.show_command("daybook.api.notes:show", "note", "Show a note.", print)
remove_ = documents.remove_command("daybook.api.notes:remove", "note", "Remove a note.")


@pytest.fixture
async def client(
    prefect_server: object, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that knows the type of notes, and has none."""
    monkeypatch.setattr(blocks, "BLOCK_TYPES", (*blocks.BLOCK_TYPES, STORE))
    module = SimpleNamespace(list_notes=NOTES.list, show=NOTES.show, remove=NOTES.remove)
    monkeypatch.setitem(sys.modules, "daybook.api.notes", module)
    monkeypatch.setattr("daybook.cli.command.prepare_prefect", lambda: None)
    async with knowing_our_blocks() as client:
        await NoteBlock.aregister_type_and_schema(client=client)
        yield client
        block_type = await client.read_block_type_by_slug(STORE.slug)
        await client.delete_block_type(block_type.id)  # with its documents


async def test_a_document_of_a_new_kind_has_the_life_of_all_others(client: PrefectClient) -> None:
    made = await NOTES.add("gate", {"text": "Shut it.", "pin": "1234"})
    assert [made] == await NOTES.list()
    shown = {"text": "Shut it.", "color": "red", "wait": 1.0}
    assert made.model_dump().items() >= {"name": "gate", "problem": None}.items()
    assert made.settings.items() >= shown.items() and "1234" not in str(made)
    assert made == await NOTES.show("gate")
    assert await api_documents.names("note") == ["gate"]  # the copy in the ledger, for Tab

    with pytest.raises(InvalidInput, match='name: "gate" is taken'):
        await NOTES.add("gate", {"text": "Open it."})
    with pytest.raises(InvalidInput, match="text: String should have at least 3"):
        await NOTES.add("gate", {"text": ""})
    with pytest.raises(InvalidInput, match="cannot be the name of a note"):
        await NOTES.add("Gate", {"text": "Open it."})
    replaced = await NOTES.add("gate", {"text": "Open it.", "color": "blue"}, replace=True)
    assert replaced == await NOTES.show("gate")
    assert (replaced.settings["text"], replaced.settings["color"]) == ("Open it.", "blue")

    await NOTES.remove("gate")
    assert (await NOTES.list(), await api_documents.names("note")) == ([], [])
    for verb in (NOTES.show("gate"), NOTES.remove("gate")):
        with pytest.raises(NotFound, match='note "gate" not found'):
            await verb


async def test_a_used_document_is_not_removed(client: PrefectClient) -> None:
    class Used(Documents[DocumentInfo]):
        async def users(self, client: PrefectClient, name: str) -> list[str]:
            return ["brief", "digest"]

    await NOTES.add("gate", {"text": "Shut it."})
    with pytest.raises(InvalidInput, match='note: "gate" is used by brief, digest'):
        await Used(STORE, DocumentInfo).remove("gate")
    assert len(await NOTES.list()) == 1


async def test_the_commands_of_a_new_kind_need_only_its_name(
    client: PrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(command: Any, *names: str) -> Any:
        assert await command(*names, as_json=True) == 0
        return json.loads(capsys.readouterr().out)

    given = NoteOptions(text="Shut it.", wait="1m").given()
    await NOTES.add("gate", given)
    [listed] = await answer(list_)
    assert listed == await answer(show_, "gate")
    assert (listed["settings"]["text"], listed["settings"]["wait"]) == ("Shut it.", 60.0)
    assert await answer(remove_, "gate") == {"removed": "gate"}
    with pytest.raises(NotFound, match='note "gate"'):
        await show_("gate")


def test_the_options_of_a_new_kind_come_from_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        name: annotation.__metadata__[0] for name, annotation in NoteOptions.__annotations__.items()
    }
    assert {each.name[0] for each in options.values()} == {
        *("--words", "--color", "--wait", "--pin-env", "--pin-stdin")
    }
    assert options["color"].help == "Its color. [choices: red, blue] [default: red]"
    assert NoteOptions().given() == {}
    monkeypatch.setenv("THE_PIN", "1234")
    given = NoteOptions(text="Shut it.", wait="2s", pin_env="THE_PIN").given()
    assert given == {"text": "Shut it.", "wait": 2.0, "pin": "1234"}
    with pytest.raises(InvalidInput, match="wait"):
        NoteOptions(wait="soon").given()
