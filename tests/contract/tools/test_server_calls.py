"""Calls to an MCP server over each transport: the answer, and its meaning for the run."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal

import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import Secret
from daybook.ledger.states import Status
from daybook.redaction import HIDDEN
from daybook.tools import catalog
from tests.contract.tools.conftest import OCCURRENCE, Caller, runs

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MEBIBYTE = 2**20


async def test_an_answer_is_the_runs_output_and_its_result_records_the_call(caller: Caller) -> None:
    called = await caller.call("add", a=2, b=3)
    outcome = called.outcome
    assert (outcome.status, outcome.output, outcome.error) == (Status.SUCCEEDED, "5", None)
    assert outcome.result["tool_name"] == "ours.add"
    assert outcome.result["params"] == {"a": 2, "b": 3}
    assert not called.temporary


async def test_a_json_answer_is_stored_as_json(caller: Caller) -> None:
    outcome = (await caller.call("about", topic="x")).outcome
    assert outcome.result["result"] == {"topic": "x", "parts": [1, None, {"deep": True}]}


async def test_a_text_answer_is_the_output_and_the_result(caller: Caller) -> None:
    outcome = (await caller.call("say", text="well ")).outcome
    assert (outcome.output, outcome.result["result"]) == ("well ", "well ")


async def test_a_tools_error_fails_the_run_without_a_retry(caller: Caller) -> None:
    called = await caller.call("fail", idempotent=True, words="no such index")
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
    assert "no such index" in str(called.outcome.error)


async def test_a_tool_is_found_with_its_schema(caller: Caller) -> None:
    info = await catalog.find("ours.add", caller.saved, Guard(Rule.AGENT))
    assert (info.name, info.description, info.source) == ("ours.add", "Add two numbers.", "ours")
    assert info.schema["required"] == ["a"]
    catalog.check_params(info, {"a": 1})
    with pytest.raises(InvalidInput, match=r"params: .* at \$\.a: 'one' is not of type 'integer'"):
        catalog.check_params(info, {"a": "one"})


async def test_an_unknown_tool_is_refused_with_the_known_names(caller: Caller) -> None:
    with pytest.raises(UnknownName) as caught:
        await caller.prepared("ad", {})
    assert "ours.add" in caught.value.known


async def test_params_that_do_not_match_the_schema_are_refused_before_the_call(
    caller: Caller,
) -> None:
    with pytest.raises(InvalidInput, match="'a' is a required property"):
        await caller.prepared("add", {"b": 1})
    assert caller.report_pipe.nothing()


async def test_all_tools_of_a_server_are_listed(caller: Caller) -> None:
    found, absent = await catalog.list_tools(caller.saved)
    names = {each.name for each in found}
    assert {"ours.add", "ours.wait"} <= names
    assert absent == {}


async def test_a_call_carries_its_occurrence(caller: Caller) -> None:
    found = (await caller.call("key")).outcome.result["result"]
    over_http = caller.kind == "http"
    assert found == {
        "meta": OCCURRENCE,
        "header": OCCURRENCE if over_http else None,
        "team": "ops" if over_http else None,
    }


async def test_a_call_without_an_answer_in_time_has_an_unknown_outcome(caller: Caller) -> None:
    called = await caller.call("wait", timeout=3)
    assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
    assert "the call was sent, so its effect is unknown" in called.outcome.reason
    assert "within 3 s" in str(called.outcome.error)
    await _gone(caller)


async def test_an_idempotent_call_without_an_answer_in_time_is_retried(caller: Caller) -> None:
    called = await caller.call("wait", timeout=3, idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.TIMED_OUT, True)
    await _gone(caller)


async def test_cancelling_a_call_waits_until_the_stdio_server_has_ended(caller: Caller) -> None:
    task = asyncio.ensure_future(caller.call("wait", timeout=600))
    pids = await _at_work(caller)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if caller.kind == "stdio":
        assert not any(map(runs, pids))
    else:
        os.kill(pids[1], signal.SIGKILL)


async def test_a_server_that_dies_during_a_call_leaves_the_run_unknown(caller: Caller) -> None:
    called = await caller.call("crash")
    assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
    if caller.kind == "stdio":
        assert "exited with code 7" in str(called.outcome.error)
        assert "it hurts" in str(called.outcome.error)


async def test_an_idempotent_call_is_retried_if_its_server_dies(caller: Caller) -> None:
    called = await caller.call("crash", idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)


async def test_the_remaining_processes_of_a_stdio_server_are_ended(caller: Caller) -> None:
    called = await caller.call("leave_behind")
    assert called.outcome.output == "left"
    await _gone(caller)


async def test_a_long_answer_is_cut_to_the_stored_limit(caller: Caller) -> None:
    outcome = (await caller.call("say", text="€", times=MEBIBYTE // 2)).outcome
    assert outcome.status is Status.SUCCEEDED
    assert outcome.output == "€" * (MEBIBYTE // 3)
    assert outcome.reason == "cut: longer than the 1,048,576 bytes that are kept"


async def test_an_answer_above_the_read_limit_leaves_the_run_unknown(caller: Caller) -> None:
    called = await caller.call("say", text="0123456789", times=MEBIBYTE)
    assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
    assert "longer than 4,194,304 bytes" in str(called.outcome.error)


async def test_an_idempotent_call_with_too_long_an_answer_fails_without_a_retry(
    caller: Caller,
) -> None:
    called = await caller.call("say", idempotent=True, text="0123456789", times=MEBIBYTE)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)


async def test_a_secret_is_sent_to_its_tool_and_not_stored(caller: Caller) -> None:
    hosts = ("tool:ours.digest",) if caller.kind == "stdio" else (caller.host,)
    caller.saved.stored_secrets["ops"] = Secret("ops", "hunter-2-and-more", hosts)
    called = await caller.call("digest", password="{{secret:ops}}")
    hashed = hashlib.sha256(b"hunter-2-and-more").hexdigest()
    assert called.outcome.output == f"{HIDDEN} {hashed}"
    assert called.outcome.result["params"] == {"password": "{{secret:ops}}"}
    assert "hunter-2" not in repr(called)


async def test_no_logger_writes_a_secret(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hosts = ("tool:ours.digest", caller.host)
    caller.saved.stored_secrets["ops"] = Secret("ops", "hunter-2-and-more", hosts)
    if caller.kind == "http":
        headers = {"Authorization": "Bearer {{secret:ops}}"}
        caller.saved.settings["ours"] |= {"headers": headers}
    await caller.call("digest", password="{{secret:ops}}")
    assert "hunter" not in caplog.text


async def test_a_secret_for_another_destination_is_refused(caller: Caller) -> None:
    caller.saved.stored_secrets["ops"] = Secret(
        "ops", "hunter-2-and-more", ("api.example.org", "tool:ours")
    )
    with pytest.raises(InvalidInput, match='params: the secret "ops" is not for'):
        await caller.prepared("digest", {"password": "{{secret:ops}}"})


async def test_a_schema_error_masks_the_secret(caller: Caller) -> None:
    hosts = ("tool:ours.add", caller.host)
    caller.saved.stored_secrets["ops"] = Secret("ops", "hunter-2-and-more", hosts)
    with pytest.raises(InvalidInput) as caught:
        await caller.prepared("add", {"a": "{{secret:ops}}"})
    assert HIDDEN in str(caught.value)
    assert "hunter" not in str(caught.value)


async def test_closing_a_prepared_call_calls_no_tool(caller: Caller) -> None:
    prepared = await caller.prepared("add", {"a": 1})
    await prepared.close()
    assert caller.report_pipe.nothing()


async def _at_work(caller: Caller) -> list[int]:
    """Return the pids of the server and of the process that its tool started."""
    pid, child = await caller.report_pipe.line()
    return [pid, int(child)]


async def _gone(caller: Caller) -> None:
    pids = await _at_work(caller)
    if caller.kind == "stdio":
        assert not any(map(runs, pids))
    else:
        os.kill(pids[1], signal.SIGKILL)
