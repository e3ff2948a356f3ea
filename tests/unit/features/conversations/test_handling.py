"""Handling of updates: pairing, roles, records, and what a repetition does not repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from daybook import api
from daybook.delivery import buttons
from daybook.errors import Ambiguous, InvalidInput, NotFound, PrefectUnreachable
from daybook.features.approvals import operations as approval_operations
from daybook.features.conversations import (
    chat_commands,
    handling,
    operations,
    people,
    store,
    words,
)
from daybook.features.conversations.handling import handle_new
from daybook.features.conversations.people import Role
from daybook.features.conversations.platform import (
    AccountReplaced,
    Platform,
    PlatformError,
    Post,
    ReceivedPicture,
    Update,
    UpdateKind,
)
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import CodeRow, PersonRow, SentRow, UpdateRow
from daybook.jobs.model import normal_parameters
from daybook.ledger.tables import OutboxRow
from daybook.policies.policy import ANSWER
from daybook.runs import claims
from daybook.runs.approvals import Question
from daybook.runs.restored import Restore
from daybook.runs.retention import RetentionLimits
from tests.world import World

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("shared_ledger", "daybook_home"),
]

CHANNEL = "telegram"
WORDS = "approve yes ok reject no"
GONE = "This is no longer possible: it was decided, or it has changed."
UNUSED = "only the listener and the outbox call this, never the handling of an update"
CALL = Question("1.1", "d" * 64, 1, "mail_send", 'to="ann"', timedelta(hours=1))


@dataclass
class FakePlatform:
    """A service that records what Daybook calls."""

    max_characters: int = 4_000
    position_lifetime: timedelta | None = None
    is_letter: bool = False
    position: int | None = None
    typing: list[str] = field(default_factory=list)
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    pictures: dict[str, ReceivedPicture] = field(default_factory=dict)
    picture_faults: list[PlatformError] = field(default_factory=list)
    """The errors of the next requests for pictures."""

    async def identity(self) -> str:
        return "@fake"

    async def receive(self, after: int | None) -> Sequence[Update]:
        return ()

    async def confirm(self, updates: Sequence[Update]) -> None:
        raise AssertionError(UNUSED)

    async def read_pictures(self, ids: Sequence[str]) -> Sequence[ReceivedPicture]:
        if self.picture_faults:
            raise self.picture_faults.pop(0)
        return [self.pictures[each] for each in ids if each in self.pictures]

    async def show_typing(self, chat_id: str, message_id: str) -> None:
        self.typing.append(chat_id)

    async def acknowledge(self, press_id: str, text: str) -> None:
        self.acknowledged.append((press_id, text))

    async def send(self, post: Post) -> str:
        raise AssertionError(UNUSED)

    async def edit(self, message_id: str, post: Post) -> None:
        raise AssertionError(UNUSED)

    async def delete(self, chat_id: str, message_id: str) -> None:
        raise AssertionError(UNUSED)

    async def remove_buttons(self, chat_id: str, message_id: str) -> None:
        raise AssertionError(UNUSED)


class FakeAccount:
    """The account `telegram` at the fake service."""

    name, agent = CHANNEL, "default"

    def __init__(self, account_id: str = "bot-1", place: str = "") -> None:
        self.account_id, self.place = account_id, place

    def open(self) -> AbstractAsyncContextManager[Platform]:
        raise AssertionError(UNUSED)


class Chat:
    """People who write to the account; each message is handled at once."""

    def __init__(self, world: World) -> None:
        self.world, self.platform, self._count = world, FakePlatform(), 0

    async def put(self, text: str = "", person: str = "1", **given: Any) -> str:
        self._count += 1
        base: dict[str, Any] = {
            "id": str(self._count),
            "position": self._count,
            "kind": UpdateKind.MESSAGE,
            "chat_id": person,
            "person_id": person,
            "person_name": f"person {person}",
            "message_id": str(1_000 + self._count),
            "text": text,
        }
        await store.put(self.world.ledger, CHANNEL, [Update(**(base | given))])
        return str(base["id"])

    async def handle(self) -> None:
        await handle_new(self.world.ledger, FakeAccount(), self.platform)

    async def says(self, text: str, person: str = "1", **given: Any) -> str:
        """Write and return the answer; "" if there is none."""
        id_ = await self.put(text, person, **given)
        await self.handle()
        return await self.answer(id_)

    async def answer(self, id_: str) -> str:
        async with self.world.ledger.read() as session:
            key = store.answer_key(CHANNEL, id_)
            query = select(OutboxRow.body).where(col(OutboxRow.key) == key)
            return (await session.execute(query)).scalar_one_or_none() or ""

    async def row(self, id_: str) -> UpdateRow:
        async with self.world.ledger.read() as session:
            return await session.get_one(UpdateRow, (CHANNEL, id_))

    async def pair(self, person: str = "1", role: str = "operator") -> None:
        code = await people.make_code(CHANNEL, role)
        assert f"paired as {role}" in await self.says(code.code, person)

    async def shows(
        self,
        key: str,
        message_id: str = "77",
        chat_id: str = "1",
        words: str = WORDS,
        buttons: bool = False,
    ) -> OutboxRow:
        """Record that the outbox row with this key was sent to the chat as this message."""
        async with self.world.ledger.write() as session:
            query = select(OutboxRow).where(col(OutboxRow.key) == key)
            row: OutboxRow = (await session.execute(query)).scalar_one()
            sent = SentRow(
                channel=CHANNEL,
                chat_id=chat_id,
                message_id=message_id,
                outbox_id=row.id,
                part=0,
                run_id=row.run_id,
                words=words,
                buttons=buttons,
                sent_at=self.world.ledger.now(),
            )
            session.add(sent)
            return row


@pytest.fixture
def chat(world: World) -> Chat:
    return Chat(world)


# --- pairing


async def test_a_code_pairs_one_person_once(chat: Chat) -> None:
    code = await people.make_code(CHANNEL)
    assert "paired as operator" in await chat.says(code.code.lower())
    assert await chat.says(code.code, "2") == words.STRANGER_TEXT
    [paired] = await operations.list_people()
    assert (paired.name, paired.role, paired.channel) == ("person 1", Role.OPERATOR, CHANNEL)
    async with chat.world.ledger.read() as session:
        assert (await session.execute(select(CodeRow))).first() is None


async def test_a_code_is_for_its_channel_and_ten_minutes(chat: Chat) -> None:
    other = await people.make_code("other")
    assert await chat.says(other.code) == words.STRANGER_TEXT
    late = await people.make_code(CHANNEL)
    chat.world.passes(minutes=10)
    assert await chat.says(late.code, "2") == words.STRANGER_TEXT
    assert await operations.list_people() == []


async def test_wrong_codes_end_the_right_one(chat: Chat) -> None:
    code = await people.make_code(CHANNEL)
    for number in range(people.MAX_TRIES):
        await chat.says("AAAA-AAAA", f"9{number}")
    assert await chat.says(code.code) == words.STRANGER_TEXT
    assert await operations.list_people() == []


async def test_a_code_is_no_secret_in_the_ledger_and_a_paired_one_is_forgotten(chat: Chat) -> None:
    code = await people.make_code(CHANNEL)
    async with chat.world.ledger.read() as session:
        [row] = (await session.execute(select(CodeRow))).scalars()
    assert code.code.replace("-", "") not in row.digest
    id_ = await chat.put(code.code)
    await chat.handle()
    assert (await chat.row(id_)).content == {}


async def test_a_stranger_gets_one_sentence_a_day_and_does_nothing(chat: Chat) -> None:
    await chat.world.jobs.add("brief", on_demand=True)
    assert await chat.says("/run brief", "6") == words.STRANGER_TEXT
    assert await chat.says("hello?", "6") == ""
    chat.world.passes(hours=23)
    assert await chat.says("hello?", "6") == ""
    chat.world.passes(hours=2)
    assert await chat.says("hello?", "6") == words.STRANGER_TEXT
    assert await chat.says("hello", "7", is_group=True, chat_id="-1") == ""
    assert await chat.world.runs.rows() == []
    assert await operations.list_people() == []


async def test_a_person_who_is_unpaired_is_a_stranger_at_once(chat: Chat) -> None:
    await chat.pair()
    await chat.pair("2")
    assert "There are no jobs" in await chat.says("/jobs")
    with pytest.raises(NotFound):
        await operations.unpair("nobody")
    with pytest.raises(NotFound):
        await operations.unpair("")
    ended = await operations.unpair("person 1")
    assert ended.name == "person 1"
    assert await chat.says("/jobs") == words.STRANGER_TEXT
    assert "There are no jobs" in await chat.says("/jobs", "2")


async def test_a_role_is_known_and_names_may_be_ambiguous(chat: Chat) -> None:
    with pytest.raises(InvalidInput) as refused:
        await people.make_code(CHANNEL, "stranger")
    assert refused.value.field == "role"
    await chat.pair("1")
    await chat.pair("2")
    async with chat.world.ledger.write() as session:
        for each in (await session.execute(select(PersonRow))).scalars():
            each.name = "Anna"
            session.add(each)
    with pytest.raises(Ambiguous):
        await operations.unpair("Anna")
    with pytest.raises(NotFound):
        await operations.unpair("Zoe")


# --- commands


async def test_jobs_are_listed_paused_and_resumed_by_name(chat: Chat) -> None:
    await chat.pair()
    stored = await chat.world.jobs.add("brief", cron="0 9 * * *")
    assert "**brief**: at 09:00 every day" in await chat.says("/jobs")
    assert "brief is paused" in await chat.says("/pause brief")
    assert not (await api.jobs.show(stored.id)).enabled
    assert "**brief** (paused)" in await chat.says("!jobs")
    assert "It is due next at" in await chat.says("/resume brief")
    assert ": brief" in await chat.says("/next")
    assert "In the last 24 hours" in await chat.says("/today")
    assert 'job "nothing" not found' in await chat.says("/run nothing")
    assert "write /run and the job's name" in await chat.says("/run")
    assert "There is no command /dance" in await chat.says("/dance")
    for word in words.COMMANDS:
        assert f"/{word}" in await chat.says("/help")


async def no_notes(*_: Any) -> list[str]:
    return []


async def test_a_job_is_added_once_after_it_was_shown(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat.pair()
    id_ = await chat.put("/new every weekday at 9:30: Summarize: all of it")
    await chat.handle()
    shown = await chat.answer(id_)
    assert "**at 09:30 on weekdays" in shown
    assert "> Summarize: all of it" in shown
    assert shown.count("09:30:00") == 5
    assert await api.jobs.list_jobs() == []
    await chat.shows(store.answer_key(CHANNEL, id_))
    press = {"kind": UpdateKind.PRESS, "message_id": "77", "button": "add", "press_id": "p"}
    monkeypatch.setattr(api.preflight, "check", no_notes)  # Prefect, which has the channel, is away
    assert "Added" in await chat.says("", **press)
    assert await chat.says("", **press) == ""
    assert chat.platform.acknowledged[-1] == ("p", GONE)
    [job] = await api.jobs.list_jobs()
    assert (job.kind, job.notify.channel, job.notify.chat_id) == (*("agent-prompt", CHANNEL, "1"),)


async def test_what_is_no_schedule_is_refused_with_an_example(chat: Chat) -> None:
    await chat.pair()
    assert "needs a schedule, a colon and a prompt" in await chat.says("/new brief me")
    assert "That did not work" in await chat.says("/new sometimes: brief me")
    assert await api.jobs.list_jobs() == []


# --- decisions


async def asked(world: World, question: Question = CALL) -> str:
    stored = await world.jobs.add("brief", on_demand=True)
    granted = await world.runs.running(await world.runs.request(stored))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    return granted.run_id


@pytest.mark.parametrize(("word", "status"), [("approve", "approved"), ("no: later", "rejected")])
async def test_a_reply_decides_a_question_once(chat: Chat, word: str, status: str) -> None:
    await chat.pair()
    await chat.pair("2", "reader")
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1")
    assert await chat.says(word, "2", reply_to="77", chat_id="1") == words.ONLY_OPERATOR
    press = {"kind": UpdateKind.PRESS, "message_id": "77", "button": "approve", "press_id": "p"}
    assert await chat.says("", "2", chat_id="1", **press) == words.ONLY_OPERATOR
    assert "To decide, reply with" in await chat.says("ok, later", reply_to="77")
    assert [each.ref for each in await approval_operations.list_waiting()]
    assert status.capitalize() in await chat.says(word, reply_to="77")
    run = await api.runs.show(run_id)
    assert (run.approvals[0].status, run.approvals[0].decided_by) == (
        *(status, "person 1 (telegram)"),
    )
    assert run.approvals[0].reason == ("later" if status == "rejected" else "")
    late = await chat.says("", **(press | {"button": "reject"}))
    assert late == ""
    assert (await api.runs.show(run_id)).approvals[0].status == status


async def test_after_its_deadline_a_question_is_not_decided(chat: Chat) -> None:
    await chat.pair()
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1")
    chat.world.passes(hours=1)
    assert "no person decided in time" in await chat.says("approve", reply_to="77")
    assert (await api.runs.show(run_id)).approvals[0].status != "approved"


async def test_a_message_of_another_chat_is_not_answered_by_its_number(chat: Chat) -> None:
    await chat.pair()
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1", chat_id="-500")
    press = {"kind": UpdateKind.PRESS, "message_id": "77", "button": "approve", "press_id": "p"}
    assert await chat.says("", **press) == ""
    assert (await api.runs.show(run_id)).approvals[0].status == "open"


async def test_a_reply_in_a_thread_answers_the_question_there(chat: Chat) -> None:
    await chat.pair()
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1", "80.1/81.1")
    hint = await chat.says("ok, but with snow", thread_id="80.1", is_addressed=False)
    assert "To decide, reply with" in hint
    await chat.shows(store.answer_key(CHANNEL, str(chat._count)), "80.1/82.1")
    for other in ("80", "80.10", "81.1"):
        assert await chat.says("ok", thread_id=other, is_addressed=False) == ""
    assert "Approved" in await chat.says("ok", thread_id="80.1", is_addressed=False)


@pytest.mark.dialect
async def test_in_a_thread_the_newest_message_with_buttons_is_answered(chat: Chat) -> None:
    await chat.pair()
    run_id = await asked(chat.world)
    key = f"approval:{run_id}:1"
    await chat.shows(key, "80.1")
    await chat.shows(key, "80.1/81.1", buttons=True)
    hint = await chat.put("/jobs")
    await chat.handle()
    for message_id in ("80.1/82.1", "80.2/90.1"):
        await chat.shows(store.answer_key(CHANNEL, hint), message_id, words="")

    async def found() -> SentRow | None:
        async with chat.world.ledger.read() as session:
            return await store.find_in_thread(session, CHANNEL, "1", "80.1")

    with_buttons = await found()
    assert with_buttons is not None
    assert with_buttons.message_id == "80.1/81.1"
    assert "Approved" in await chat.says("ok", thread_id="80.1", is_addressed=False)
    async with chat.world.ledger.write() as session:
        await store.clear_buttons(session, with_buttons)
    of_run = await found()
    assert of_run is not None
    assert of_run.run_id == run_id


async def test_a_press_of_a_word_that_the_message_does_not_have_does_nothing(chat: Chat) -> None:
    await chat.pair()
    run_id = await asked(chat.world, Question(ANSWER, "d" * 64, 0, ANSWER, "x", timedelta(1)))
    await chat.shows(f"approval:{run_id}:1")
    for word in ("retry", "pause", "approve:2", "land", ""):
        press = {"kind": UpdateKind.PRESS, "message_id": "77", "button": word, "press_id": "p"}
        await chat.says("", **press)
    assert (await api.runs.show(run_id)).approvals[0].status == "open"


@pytest.mark.parametrize(("approve", "channel"), [(["*"], "inbox"), (["mail_send"], CHANNEL)])
async def test_the_question_of_a_readers_run_goes_to_the_operator(
    chat: Chat, approve: list[str], channel: str
) -> None:
    given = {
        "prompt": "send it",
        "policy": {"approve": approve},
        "notify": {"channel": CHANNEL, "chat_id": "9"},
    }
    parameters = dict(normal_parameters("agent-prompt", given))
    row = await claims.request_answer(chat.world.ledger, "default:x", "r", parameters)
    granted = await chat.world.runs.running(row)
    await claims.wait_for_approval(chat.world.ledger, granted.run_id, granted.fence, CALL)
    async with chat.world.ledger.read() as session:
        query = select(OutboxRow.address).where(col(OutboxRow.key) == f"approval:{row.id}:1")
        assert (await session.execute(query)).scalar_one() == channel


# --- exactly once


async def test_a_redelivered_update_is_stored_once(chat: Chat) -> None:
    await chat.pair()
    stored = await chat.world.jobs.add("brief", cron="0 9 * * *")
    id_ = await chat.put("/pause brief")
    await chat.handle()
    await api.jobs.resume(stored.id)
    await chat.put("/pause brief", id=id_)
    await chat.handle()
    assert (await api.jobs.show(stored.id)).enabled
    assert (await chat.row(id_)).state == UpdateState.DONE


DONE = "Done: Approve: brief: approve mail_send?"


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("at", ["_finish", "store.enqueue"])
async def test_a_kill_between_the_deed_and_its_record_repeats_nothing(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await chat.pair()
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1")
    id_ = await chat.put("approve", reply_to="77")

    def dies(*given: Any, **named: Any) -> Any:
        raise Killed

    owner, _, name = at.rpartition(".")
    with monkeypatch.context() as patch:
        patch.setattr(store if owner else handling, name, dies)
        with pytest.raises(Killed):
            await chat.handle()
    assert (await chat.row(id_)).state == UpdateState.NEW
    await chat.handle()
    assert (await chat.row(id_)).state == UpdateState.DONE
    run = await api.runs.show(run_id)
    assert [each.status for each in run.approvals] == ["approved"]
    assert await chat.answer(id_) in ("Approved: `mail_send`. The run goes on.", DONE)
    assert [each.trigger for each in await chat.world.runs.rows()] == ["manual"]


async def test_updates_are_handled_in_their_order_and_one_failure_stops_none(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat.pair()
    order: list[str] = []
    real: Callable[..., Any] = chat_commands.answer

    async def answer(word: str, *given: Any) -> str:
        order.append(word)
        if word == "jobs":
            raise RuntimeError("a mistake with s3cr3t")
        return str(await real(word, *given))

    monkeypatch.setattr(chat_commands, "answer", answer)
    ids = [await chat.put(f"/{word}") for word in ("next", "jobs", "help")]
    await chat.handle()
    assert order == ["next", "jobs", "help"]
    assert await chat.answer(ids[1]) == "That did not work."
    assert (await chat.row(ids[1])).action == "command: RuntimeError"


async def test_without_prefect_a_message_waits_and_is_not_lost(chat: Chat) -> None:
    await chat.pair()
    id_ = await chat.put("hello")
    with pytest.raises(PrefectUnreachable):
        await chat.handle()
    assert (await chat.row(id_)).state == UpdateState.NEW
    assert chat.platform.typing == ["1"]


# --- records and retention


async def test_what_was_heard_names_who_and_what(chat: Chat) -> None:
    await chat.pair()
    await chat.says("/pause nothing")
    newest, paired = await operations.heard()
    assert (paired.action, paired.person_name) == ("paired as operator", "person 1")
    assert newest.action.startswith("command:")
    assert (newest.state, newest.run_id) == ("done", None)


async def test_old_updates_are_deleted(chat: Chat) -> None:
    await chat.pair()
    ledger = chat.world.ledger
    chat.world.passes(days=31)
    limits = RetentionLimits.of_settings()
    assert await store.delete_old(ledger, limits) == 1
    assert await operations.heard() == []


async def test_a_position_is_valid_for_its_lifetime_and_account(chat: Chat) -> None:
    ledger, days = chat.world.ledger, timedelta(days=6)

    async def position(lifetime: timedelta | None = days) -> int | None:
        async with ledger.read() as session:
            return await store.last_position(session, CHANNEL, lifetime, ledger.now())

    await store.use_account(ledger, FakeAccount())
    assert await position() is None
    await store.put(ledger, CHANNEL, [], 500)  # of an update that no person has caused
    assert await position() == 500
    chat.world.passes(days=6)
    assert await position() is None
    assert await position(None) == 500
    await store.use_account(ledger, FakeAccount())
    assert await position(None) == 500
    await store.use_account(ledger, FakeAccount("bot-2"))
    assert await position(None) is None


async def test_a_position_belongs_to_its_place(chat: Chat) -> None:
    ledger = chat.world.ledger

    async def position() -> int | None:
        async with ledger.read() as session:
            return await store.last_position(session, CHANNEL, None, ledger.now())

    old, new = FakeAccount(place="INBOX"), FakeAccount(place="Robots")
    await store.use_account(ledger, old)
    await chat.pair()
    await store.put(ledger, CHANNEL, [], 500, old)
    await store.use_account(ledger, new)
    assert await position() is None
    await store.put(ledger, CHANNEL, [], 7, new)
    for account in (old, FakeAccount("bot-2", "Robots")):  # of a listener that does not know it
        with pytest.raises(AccountReplaced):
            await store.put(ledger, CHANNEL, [], 501, account)
        async with ledger.read() as session:
            with pytest.raises(AccountReplaced):
                await store.position_of(session, account, None, ledger.now())
    assert await position() == 7
    assert len(await operations.list_people()) == 1


async def test_another_account_of_a_channel_knows_no_person_and_no_message(chat: Chat) -> None:
    ledger = chat.world.ledger
    await store.use_account(ledger, FakeAccount())
    await chat.pair()
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1")
    id_ = await chat.put("/jobs")
    answered = await chat.put("why?")
    async with ledger.write() as session:
        row = await store.get_update(session, CHANNEL, answered)
        assert row is not None
        row.state, row.draft = UpdateState.ASKED, "101"
        session.add(row)
    await store.use_account(ledger, FakeAccount("bot-2"))
    await chat.handle()
    assert (await chat.row(answered)).draft == ""  # the number of another message of this account
    assert (await chat.row(id_)).action == "not handled: the channel has another account"
    assert await operations.list_people() == []
    await chat.pair()
    press = {"kind": UpdateKind.PRESS, "message_id": "77", "button": "approve", "press_id": "p"}
    await chat.says("", **press)
    assert (await api.runs.show(run_id)).approvals[0].status == "open"


async def test_a_restored_ledger_handles_no_old_update_and_knows_no_person(chat: Chat) -> None:
    await chat.pair()
    stored = await chat.world.jobs.add("brief", cron="0 9 * * *")
    id_ = await chat.put("/pause brief")
    async with chat.world.ledger.write() as session:
        now = chat.world.ledger.now()
        await store.forget_new(session, Restore.model_construct(backup=now, at=now))
    await chat.handle()
    assert (await chat.row(id_)).action == "not handled: the ledger was restored"
    assert (await api.jobs.show(stored.id)).enabled
    assert await operations.list_people() == []


async def test_a_decision_that_comes_too_late_is_no_prompt(chat: Chat) -> None:
    await chat.pair()
    await chat.pair("2")
    run_id = await asked(chat.world)
    row = await chat.shows(f"approval:{run_id}:1")
    assert row.run_id == run_id
    assert "Approved" in await chat.says("yes", reply_to="77")
    for word in ("yes", "reject", "Approve."):
        late = await chat.says(word, "2", reply_to="77", chat_id="1")
        assert late.startswith("This is no longer possible"), word
    assert len(await chat.world.runs.rows()) == 1


async def test_a_button_that_fails_to_load_stops_no_update(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat.pair()
    run_id = await asked(chat.world)
    await chat.shows(f"approval:{run_id}:1")

    async def fails(*_: Any) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(buttons, "of", fails)
    first = await chat.put("approve", reply_to="77")
    second = await chat.put("/jobs")
    await chat.handle()
    assert (await chat.row(first)).state == UpdateState.DONE
    assert "**brief**" in await chat.answer(second)


async def test_an_update_of_a_later_version_is_read(chat: Chat) -> None:
    await chat.pair()
    id_ = await chat.put("/jobs")
    async with chat.world.ledger.write() as session:
        row = await session.get_one(UpdateRow, (CHANNEL, id_))
        row.content = {**row.content, "a_later_field": 1}
        session.add(row)
    await chat.handle()
    assert "There are no jobs" in await chat.answer(id_)


async def test_after_an_hour_without_prefect_a_message_is_answered_with_the_reason(
    chat: Chat,
) -> None:
    await chat.pair()
    id_ = await chat.put("hello")
    with pytest.raises(PrefectUnreachable):
        await chat.handle()
    chat.world.passes(hours=1)
    await chat.handle()
    assert (await chat.answer(id_)).startswith("That did not work:")


async def test_an_operator_who_pairs_again_stays_the_first(chat: Chat) -> None:
    await chat.pair("1")
    chat.world.passes(minutes=1)
    await chat.pair("2")
    chat.world.passes(minutes=1)
    await chat.pair("1")
    async with chat.world.ledger.read() as session:
        first = await people.first_operator(session, CHANNEL)
    assert first is not None and first.person_id == "1"


async def test_the_name_of_a_person_has_no_hidden_characters(chat: Chat) -> None:
    code = await people.make_code(CHANNEL)
    await chat.says(code.code, person_name="An\u202ena\n Schmidt")
    [paired] = await operations.list_people()
    assert paired.name == "Anna Schmidt"


async def test_an_update_waits_until_the_message_that_it_answers_is_recorded(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handling, "RECORDING_CHECK_SECONDS", 0.0)
    await chat.pair()
    run_id = await asked(chat.world)
    ledger, key = chat.world.ledger, f"approval:{run_id}:1"
    async with ledger.write() as session:
        query = select(OutboxRow).where(col(OutboxRow.key) == key)
        row: OutboxRow = (await session.execute(query)).scalar_one()
        row.address, row.queue = CHANNEL, f"channel:{CHANNEL}/1"
        row.status, row.lease_until = "pending", ledger.now() + timedelta(seconds=90)
        session.add(row)
    checked = asyncio.Event()
    real = store.is_sending

    async def is_sending(*given: Any) -> bool:
        checked.set()
        return await real(*given)

    monkeypatch.setattr(store, "is_sending", is_sending)
    id_ = await chat.put("approve", reply_to="77")
    handles = asyncio.create_task(chat.handle())
    await checked.wait()  # it has been sent, but its process has not recorded it yet
    await chat.shows(key)
    await handles
    assert "Approved" in await chat.answer(id_)
    assert (await api.runs.show(run_id)).approvals[0].status == "approved"
