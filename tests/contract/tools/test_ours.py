"""Each way to a server of MCP: what is answered, and what it means for the run."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal

import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import HIDDEN, Secret
from daybook.ledger.states import Status
from daybook.tools import catalog
from tests.contract.tools.conftest import OCCURRENCE, Caller, runs

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MEBIBYTE = 2**20


async def test_an_answer_is_the_runs_output_and_its_result_holds_what_was_called(
    ours: Caller,
) -> None:
    called = await ours.call("add", a=2, b=3)
    outcome = called.outcome
    assert (outcome.status, outcome.output, outcome.error) == (Status.SUCCEEDED, "5", None)
    assert outcome.result["tool_name"] == "ours.add"
    assert outcome.result["params"] == {"a": 2, "b": 3}
    assert not called.temporary


async def test_json_is_kept_as_json(ours: Caller) -> None:
    outcome = (await ours.call("about", topic="x")).outcome
    assert outcome.result["result"] == {"topic": "x", "parts": [1, None, {"deep": True}]}


async def test_a_text_alone_is_the_result_as_well(ours: Caller) -> None:
    outcome = (await ours.call("say", text="well ")).outcome
    assert (outcome.output, outcome.result["result"]) == ("well ", "well ")


async def test_an_answer_that_is_an_error_fails_the_run_for_good(ours: Caller) -> None:
    called = await ours.call("fail", idempotent=True, words="no such index")
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
    assert "no such index" in str(called.outcome.error)


async def test_the_tools_are_found_with_their_schema(ours: Caller) -> None:
    info = await catalog.find("ours.add", ours.saved, Guard(Rule.AGENT))
    assert (info.name, info.description, info.source) == ("ours.add", "Add two numbers.", "ours")
    assert info.schema["required"] == ["a"]
    catalog.check_params(info, {"a": 1})
    with pytest.raises(InvalidInput, match=r"params: .* at \$\.a: 'one' is not of type 'integer'"):
        catalog.check_params(info, {"a": "one"})


async def test_an_unknown_tool_is_refused_with_those_that_there_are(ours: Caller) -> None:
    with pytest.raises(UnknownName) as caught:
        await ours.prepared("ad", {})
    assert "ours.add" in caught.value.known


async def test_params_that_do_not_fit_are_refused_and_nothing_is_called(ours: Caller) -> None:
    with pytest.raises(InvalidInput, match="'a' is a required property"):
        await ours.prepared("add", {"b": 1})
    assert ours.told.nothing()


async def test_all_tools_are_listed(ours: Caller) -> None:
    found, absent = await catalog.list_tools(ours.saved)
    names = {each.name for each in found}
    assert {"ours.add", "ours.wait"} <= names
    assert absent == {}


async def test_a_call_carries_its_occurrence(ours: Caller) -> None:
    found = (await ours.call("key")).outcome.result["result"]
    over_http = ours.kind == "http"
    assert found == {
        "meta": OCCURRENCE,
        "header": OCCURRENCE if over_http else None,
        "team": "ops" if over_http else None,
    }


async def test_what_is_sent_and_not_answered_in_time_is_not_known(ours: Caller) -> None:
    called = await ours.call("wait", timeout=3)
    assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
    assert "the call was sent, and its effect is unknown" in called.outcome.reason
    assert "within 3 s" in str(called.outcome.error)
    await _gone(ours)


async def test_one_that_is_idempotent_is_tried_again(ours: Caller) -> None:
    called = await ours.call("wait", timeout=3, idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.TIMED_OUT, True)
    await _gone(ours)


async def test_a_cancel_goes_on_when_all_is_over(ours: Caller) -> None:
    task = asyncio.ensure_future(ours.call("wait", timeout=600))
    pids = await _at_work(ours)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if ours.kind == "stdio":
        assert not any(map(runs, pids))
    else:
        os.kill(pids[1], signal.SIGKILL)


async def test_a_server_that_dies_at_work_leaves_it_unknown(ours: Caller) -> None:
    called = await ours.call("crash")
    assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
    if ours.kind == "stdio":
        assert "exited with code 7" in str(called.outcome.error)
        assert "it hurts" in str(called.outcome.error)


async def test_where_it_is_idempotent_that_is_tried_again(ours: Caller) -> None:
    called = await ours.call("crash", idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)


async def test_what_a_program_leaves_behind_is_ended(ours: Caller) -> None:
    called = await ours.call("leave_behind")
    assert called.outcome.output == "left"
    await _gone(ours)


async def test_a_long_answer_is_cut(ours: Caller) -> None:
    outcome = (await ours.call("say", text="€", times=MEBIBYTE // 2)).outcome
    assert outcome.status is Status.SUCCEEDED
    assert outcome.output == "€" * (MEBIBYTE // 3)
    assert outcome.reason == "cut: longer than the 1,048,576 bytes that are kept"


async def test_one_that_is_not_read_to_its_end_is_not_known(ours: Caller) -> None:
    called = await ours.call("say", text="0123456789", times=MEBIBYTE)
    assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
    assert "longer than 4,194,304 bytes" in str(called.outcome.error)


async def test_repeating_that_would_not_help(ours: Caller) -> None:
    called = await ours.call("say", idempotent=True, text="0123456789", times=MEBIBYTE)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)


async def test_a_secret_goes_to_its_place_and_is_not_kept(ours: Caller) -> None:
    hosts = ("tool:ours.digest",) if ours.kind == "stdio" else (ours.host,)
    ours.saved.kept["ops"] = Secret("ops", "hunter-2-and-more", hosts)
    called = await ours.call("digest", password="{{secret:ops}}")
    hashed = hashlib.sha256(b"hunter-2-and-more").hexdigest()
    assert called.outcome.output == f"{HIDDEN} {hashed}"
    assert called.outcome.result["params"] == {"password": "{{secret:ops}}"}
    assert "hunter-2" not in repr(called)


async def test_no_logger_writes_a_secret_down(
    ours: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hosts = ("tool:ours.digest", ours.host)
    ours.saved.kept["ops"] = Secret("ops", "hunter-2-and-more", hosts)
    if ours.kind == "http":
        headers = {"Authorization": "Bearer {{secret:ops}}"}
        ours.saved.settings["ours"] |= {"headers": headers}
    await ours.call("digest", password="{{secret:ops}}")
    assert "hunter" not in caplog.text


async def test_a_secret_of_another_place_is_not_sent(ours: Caller) -> None:
    ours.saved.kept["ops"] = Secret("ops", "hunter-2-and-more", ("api.example.org", "tool:ours"))
    with pytest.raises(InvalidInput, match='params: the secret "ops" is not for'):
        await ours.prepared("digest", {"password": "{{secret:ops}}"})


async def test_a_secret_is_not_in_the_words_of_a_schema(ours: Caller) -> None:
    hosts = ("tool:ours.add", ours.host)
    ours.saved.kept["ops"] = Secret("ops", "hunter-2-and-more", hosts)
    with pytest.raises(InvalidInput) as caught:
        await ours.prepared("add", {"a": "{{secret:ops}}"})
    assert HIDDEN in str(caught.value)
    assert "hunter" not in str(caught.value)


async def test_a_call_that_is_not_made_after_all_leaves_nothing(ours: Caller) -> None:
    prepared = await ours.prepared("add", {"a": 1})
    await prepared.close()
    assert ours.told.nothing()


async def _at_work(ours: Caller) -> list[int]:
    """The server's process, and the deaf one that its tool began."""
    pid, begun = await ours.told.line()
    return [pid, int(begun)]


async def _gone(ours: Caller) -> None:
    pids = await _at_work(ours)
    if ours.kind == "stdio":
        assert not any(map(runs, pids))
    else:
        os.kill(pids[1], signal.SIGKILL)
