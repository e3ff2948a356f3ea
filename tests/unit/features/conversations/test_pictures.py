"""Pictures of people: when they are read, what is refused, and how long they stay."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlmodel import col, select

from daybook import api
from daybook.agents.pictures import MAX_PICTURE_BYTES, MAX_PICTURES, Picture
from daybook.errors import PrefectUnreachable
from daybook.features.conversations import handling, pictures, store, words
from daybook.features.conversations.platform import PlatformError, ReceivedPicture
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import PictureRow
from daybook.jobs.model import normal_parameters
from daybook.json_text import JsonObject
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims
from daybook.runs.retention import RetentionLimits
from tests.pictures import JPEG, NONE, PNG
from tests.unit.features.conversations.test_handling import Chat, Killed
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("shared_ledger", "daybook_home"),
]


@pytest.fixture
async def chat(world: World) -> Chat:
    found = Chat(world)
    await found.pair()
    found.platform.pictures = {
        "png": ReceivedPicture("../a [1].png", PNG),
        "jpeg": ReceivedPicture("", JPEG),
    }
    return found


@pytest.fixture
def with_prefect(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Request runs in the ledger alone."""

    async def request(parameters: JsonObject, *, session_id: str = "", request_id: str) -> RunRow:
        given = dict(normal_parameters("agent-prompt", parameters))
        return await claims.request_answer(world.ledger, session_id, request_id, given)

    monkeypatch.setattr(api.runs, "request_answer", request)


async def kept(chat: Chat) -> list[PictureRow]:
    async with chat.world.ledger.read() as session:
        query = select(PictureRow).order_by(col(PictureRow.key), col(PictureRow.number))
        return list((await session.execute(query)).scalars())


async def of_run(chat: Chat, run_id: str) -> tuple[Picture, ...]:
    async with chat.world.ledger.read() as session:
        return (await pictures.of_runs(session, [run_id])).get(run_id, ())


async def end_runs(chat: Chat) -> None:
    async with chat.world.ledger.write() as session:
        await session.execute(update(RunRow).values(status=Status.SUCCEEDED))


@pytest.mark.dialect
@pytest.mark.usefixtures("with_prefect")
async def test_the_run_of_a_message_has_its_pictures_in_their_order(chat: Chat) -> None:
    id_ = await chat.put("what {{due}} is this?", pictures=("png", "jpeg"))
    await chat.handle()
    [run] = await chat.world.runs.rows()
    note = "[picture: a 1.png]\n[picture: picture]"
    assert run.parameters["prompt"] == "what { {due}} is this?\n\n" + note
    sent = Picture("a 1.png", "image/png", PNG), Picture("picture", "image/jpeg", JPEG)
    assert await of_run(chat, run.id) == sent
    assert (await chat.row(id_)).state == UpdateState.ASKED
    await chat.says("and without?")
    [other] = [each for each in await chat.world.runs.rows() if each.id != run.id]
    assert await of_run(chat, other.id) == ()
    retry = RunRow(
        occurrence="flow:1:1", kind="agent-prompt", trigger="retry", status="waiting", due=run.due,
        queued_at=run.queued_at, retry_of=run.id,
    )  # fmt: skip
    async with chat.world.ledger.write() as session:
        session.add(retry)
        await session.flush()
        retry_id = retry.id
    assert await of_run(chat, retry_id) == sent


@pytest.mark.usefixtures("with_prefect")
@pytest.mark.parametrize("at", ["read", "request", "_finish"])
async def test_a_kill_neither_loses_a_picture_nor_keeps_it_twice(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    id_ = await chat.put(pictures=("png",))

    def dies(*given: Any, **named: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*{
            "read": (chat.platform, "read_pictures", dies),
            "request": (api.runs, "request_answer", dies),
            "_finish": (handling, "_finish", dies),
        }[at])  # fmt: skip
        with pytest.raises(Killed):
            await chat.handle()
    if at != "read":
        chat.platform.pictures = {}  # they are not read again
    await chat.handle()
    [run] = await chat.world.runs.rows()
    assert [each.content for each in await of_run(chat, run.id)] == [PNG]
    assert len(await kept(chat)) == 1
    assert (await chat.row(id_)).run_id == run.id


async def test_pictures_that_another_leader_has_kept_meanwhile_are_no_error(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, platform = chat.world.ledger, chat.platform
    message = store.update_of(await chat.row(await chat.put(pictures=("png",))))
    with monkeypatch.context() as patch:

        async def slow(ids: Sequence[str]) -> Sequence[ReceivedPicture]:
            patch.undo()
            await pictures.read(ledger, platform, "key", message)
            return await platform.read_pictures(ids)

        patch.setattr(platform, "read_pictures", slow)
        [found] = await pictures.read(ledger, platform, "key", message)
    assert found.content == PNG
    assert len(await kept(chat)) == 1


async def test_without_prefect_the_pictures_are_read_once(chat: Chat) -> None:
    await chat.put(pictures=("png",))
    for _ in range(2):
        with pytest.raises(PrefectUnreachable):
            await chat.handle()
        chat.platform.pictures = {}
    assert len(await kept(chat)) == 1


async def test_pictures_of_strangers_and_of_refused_readers_are_never_read(chat: Chat) -> None:
    await chat.pair("2", "reader")
    chat.platform.picture_faults = [PlatformError("it was requested")]
    assert await chat.says("", "9", pictures=("png",)) == words.STRANGER_TEXT
    assert await chat.says("x", "9", pictures=("png",)) == ""
    assert await chat.says("", "2", pictures=("png",)) == words.READER_HINT
    assert await chat.says("", pictures=("png",), is_group=True, is_addressed=False) == ""
    assert "cannot read a voice" in await chat.says("", unreadable="a voice message")
    assert len(chat.platform.picture_faults) == 1
    assert await kept(chat) == []


async def test_what_is_no_picture_that_a_model_gets_is_refused_in_words(chat: Chat) -> None:
    large = PNG + bytes(MAX_PICTURE_BYTES)
    given = {"none": NONE, "large": large} | {str(number): PNG for number in range(5)}
    chat.platform.pictures = {name: ReceivedPicture("x.png", each) for name, each in given.items()}
    assert "x.png is not in a known format" in await chat.says("", pictures=("0", "none"))
    assert "has more than 3.75 MB" in await chat.says("", pictures=("large",))
    assert "is no longer there" in await chat.says("", pictures=("gone",))
    many = tuple(map(str, range(MAX_PICTURES + 1)))
    assert f"more than {MAX_PICTURES}" in await chat.says("", pictures=many)
    assert await chat.world.runs.rows() == []
    assert await kept(chat) == []


@pytest.mark.usefixtures("with_prefect")
async def test_a_letter_with_a_text_is_answered_without_the_pictures_that_no_model_gets(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = ReceivedPicture("scan.png", PNG + bytes(MAX_PICTURE_BYTES))
    many = {str(number): ReceivedPicture(f"{number}.png", PNG) for number in range(5)}
    chat.platform.pictures = {"large": large, **many}
    id_ = await chat.put("hello", is_letter=True, pictures=("large", *many))

    def dies(*given: Any, **named: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(api.runs, "request_answer", dies)
        with pytest.raises(Killed):
            await chat.handle()
    await chat.handle()
    [run] = await chat.world.runs.rows()
    assert run.parameters["prompt"].splitlines() == [
        "hello",
        "",
        "[picture: scan.png is left out: has more than 3.75 MB]",
        *(f"[picture: {number}.png]" for number in range(4)),
        "[picture: 4.png is left out: there are more than 4]",
    ]
    sent = await of_run(chat, run.id)
    assert [(each.name, each.is_optional) for each in sent] == [
        (f"{number}.png", True) for number in range(4)
    ]
    assert (await chat.row(id_)).state == UpdateState.ASKED
    assert await chat.says("hello", is_letter=True, pictures=("gone",)) == ""
    assert "is no longer there" in await chat.says("", is_letter=True, pictures=("gone",))


@pytest.mark.usefixtures("with_prefect")
async def test_a_service_that_gives_no_picture_now_is_asked_again_for_two_minutes(
    chat: Chat,
) -> None:
    id_ = await chat.put(pictures=("png",))
    chat.platform.picture_faults = [PlatformError("not in time") for _ in range(3)]
    with pytest.raises(PlatformError):
        await chat.handle()
    assert (await chat.row(id_)).state == UpdateState.NEW
    chat.world.passes(minutes=2)
    await chat.handle()
    assert await chat.answer(id_) == "That did not work: not in time"
    assert (await chat.row(id_)).state == UpdateState.DONE
    final = PlatformError("the service has no such file", is_temporary=False)
    chat.platform.picture_faults = [final]
    assert "no such file" in await chat.says("", pictures=("png",))


@pytest.mark.usefixtures("with_prefect")
@pytest.mark.dialect
async def test_old_pictures_are_deleted_by_the_shorter_limit(chat: Chat) -> None:
    ledger, week = chat.world.ledger, RetentionLimits(timedelta(days=7), None)
    await chat.says("", pictures=("png", "jpeg"))
    chat.world.passes(days=6)
    await chat.says("", pictures=("png",))
    await end_runs(chat)
    assert await pictures.delete_old(ledger, week) == 0
    chat.world.passes(days=1)
    assert await pictures.delete_old(ledger, week) == 2
    assert len(await kept(chat)) == 1
    forever = RetentionLimits(None, None)
    assert await pictures.delete_old(ledger, forever) == 0
    chat.world.passes(days=30)
    assert await pictures.delete_old(ledger, forever) == 1


@pytest.mark.usefixtures("with_prefect")
@pytest.mark.dialect
async def test_pictures_go_with_their_run_and_not_while_it_waits(chat: Chat) -> None:
    ledger, forever = chat.world.ledger, RetentionLimits(None, None)
    await chat.says("", pictures=("png",))
    [run] = await chat.world.runs.rows()
    chat.world.passes(days=31)
    assert await pictures.delete_old(ledger, forever) == 0
    await chat.says("", pictures=("jpeg",))
    async with ledger.write() as session:
        await session.execute(delete(RunRow).where(col(RunRow.id) != run.id))
    assert await pictures.delete_old(ledger, forever) == 0  # it may still be requested
    chat.world.passes(days=1)
    assert await pictures.delete_old(ledger, forever) == 1
    assert [each.content for each in await of_run(chat, run.id)] == [PNG]
    await end_runs(chat)
    assert await pictures.delete_old(ledger, forever) == 1
