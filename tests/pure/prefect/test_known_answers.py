"""Answers that a run's process knows: given once, in time, and only for what did not change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prefect.client import base

from daybook.json_text import JsonObject
from daybook.prefect import known_answers
from daybook.prefect.known_answers import KnownAnswers

RUN_ID = "5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0001"
RUN_PATH = f"/flow_runs/{RUN_ID}"
ADDRESS = "http://127.0.0.1:1/api"
PENDING: JsonObject = {
    "id": RUN_ID,
    "run_count": 0,
    "start_time": None,
    "next_scheduled_start_time": "2026-01-15T12:00:00Z",
    "state": {
        "type": "PENDING",
        "state_details": {"scheduled_time": "2026-01-15T12:00:03Z"},
    },
}
RUNNING = {"id": "s1", "type": "RUNNING", "name": "Running", "timestamp": "2026-01-15T12:00:01Z"}


class Prefect:
    """A client of a Prefect that records each request and answers with ``answers``."""

    def __init__(self, known: KnownAnswers) -> None:
        self.known, self.asked, self.answers = known, list[str](), dict[str, Any]()
        assert known_answers.install(known)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path.removeprefix('/api')}")
        return httpx.Response(200, json=self.answers.get(self.asked[-1], "from Prefect"))

    def ask(self, method: str, path: str, body: JsonObject | None = None) -> Any:
        transport = httpx.MockTransport(self._answer)
        with base.PrefectHttpxSyncClient(base_url=ADDRESS, transport=transport) as client:
            return client.request(method, path, json=body).json()

    def ask_async(self, method: str, path: str) -> Any:
        async def ask() -> Any:
            transport = httpx.MockTransport(self._answer)
            async with base.PrefectHttpxAsyncClient(
                base_url=ADDRESS, transport=transport
            ) as client:
                return (await client.request(method, path)).json()

        return asyncio.run(ask())

    def propose(self, state: JsonObject, status: str = "ACCEPT") -> None:
        path = f"{RUN_PATH}/set_state"
        self.answers[f"POST {path}"] = {"status": status, "state": state}
        self.ask_async("POST", path)


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the clients' own methods after each test."""
    for each in (base.PrefectHttpxAsyncClient, base.PrefectHttpxSyncClient):
        monkeypatch.setattr(each, "send", each.send)
    yield


def test_a_record_is_known_to_both_kinds_of_clients() -> None:
    flow = {"name": "hello"}
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {"/flows/1": flow}))
    assert prefect.ask("GET", "/flows/1") == flow
    assert prefect.ask_async("GET", "/flows/1") == flow
    assert prefect.asked == []
    assert prefect.ask("GET", "/flows/1") == "from Prefect"  # read a third time: it may be new


def test_only_a_read_of_a_known_path_is_answered() -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {"/flows/1": {}}))
    assert prefect.ask("GET", "/flows/2") == "from Prefect"
    assert prefect.ask("POST", "/flows/1") == "from Prefect"


def test_an_old_answer_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answers, "VALID_SECONDS", 0.0)
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {"/flows/1": {}}))
    assert prefect.ask("GET", "/flows/1") == "from Prefect"


def test_the_run_is_known_once_at_the_start_and_once_after_it_is_running() -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {}))
    assert prefect.ask("GET", RUN_PATH) == PENDING
    assert prefect.ask("GET", RUN_PATH) == "from Prefect"
    prefect.propose(RUNNING)
    found = prefect.ask_async("GET", RUN_PATH)
    assert found == {
        **PENDING,
        "state": RUNNING,
        "state_id": "s1",
        "state_type": "RUNNING",
        "state_name": "Running",
        "run_count": 1,
        "start_time": RUNNING["timestamp"],
        "next_scheduled_start_time": None,
    }
    assert prefect.ask("GET", RUN_PATH) == "from Prefect"
    prefect.propose(RUNNING)  # the flow's own retry, of which Prefect knows more
    assert prefect.ask("GET", RUN_PATH) == "from Prefect"


def test_a_run_that_was_started_before_is_not_known_once_it_runs() -> None:
    """Prefect does not count the start of a resumed run."""
    prefect = Prefect(KnownAnswers(ADDRESS, {**PENDING, "run_count": 1}, {}))
    prefect.propose(RUNNING)
    assert prefect.ask("GET", RUN_PATH) == "from Prefect"


def test_the_known_run_has_what_the_process_has_changed() -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {}))
    prefect.ask("PATCH", RUN_PATH, {"flow_version": "v2"})
    prefect.propose(RUNNING)
    assert prefect.ask("GET", RUN_PATH)["flow_version"] == "v2"


@pytest.mark.parametrize("method", ["PATCH", "POST", "DELETE"])
@pytest.mark.parametrize("path", [RUN_PATH, "/flows/1"])
def test_another_change_of_a_record_makes_it_unknown(method: str, path: str) -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {"/flows/1": {}}))
    prefect.ask(method, f"{path}/labels" if method == "POST" else path, {})
    assert prefect.ask("GET", path) == "from Prefect"


def test_prefect_is_not_told_what_daybooks_flows_never_have() -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {}, is_own=True))
    transport = httpx.MockTransport(prefect._answer)
    with base.PrefectHttpxSyncClient(base_url=ADDRESS, transport=transport) as client:
        of_flow = {"flow_version": "1", "empirical_policy": {"retries": 0}}
        assert client.patch(RUN_PATH, json=of_flow).status_code == 204
    assert prefect.asked == []
    prefect.ask("PATCH", RUN_PATH, {"flow_version": "1", "name": "new"})
    assert prefect.asked == [f"PATCH {RUN_PATH}"]


@pytest.mark.parametrize(
    ("change", "record"),
    [("/deployments/", "/deployments/1"), ("/work_pools/p/queues/q", "/work_queues/1")],
)
def test_a_change_that_names_no_id_makes_its_records_unknown(change: str, record: str) -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {record: {}, "/flows/1": {"name": "f"}}))
    prefect.ask("POST", change, {})
    assert prefect.ask("GET", record) == "from Prefect"
    assert prefect.ask("GET", "/flows/1") == {"name": "f"}


def test_another_server_is_asked() -> None:
    prefect = Prefect(KnownAnswers("http://127.0.0.1:2/api", PENDING, {"/flows/1": {}}))
    assert prefect.ask("GET", "/flows/1") == "from Prefect"


def test_a_refused_state_makes_the_run_unknown() -> None:
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {}))
    prefect.propose({"type": "SCHEDULED", "id": "s", "name": "AwaitingRetry"}, "REJECT")
    assert prefect.ask("GET", RUN_PATH) == "from Prefect"


def test_only_an_accepted_final_state_is_reported() -> None:
    ended = list[str]()
    prefect = Prefect(KnownAnswers(ADDRESS, PENDING, {}, ended.append))
    prefect.propose(RUNNING)
    prefect.propose({"type": "FAILED", "id": "s", "name": "Failed"}, "REJECT")
    assert ended == []
    prefect.propose({"type": "COMPLETED", "id": "s", "name": "Completed"})
    assert ended == ["COMPLETED"]


def test_a_prefect_with_another_method_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: Any, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, request=request)

    monkeypatch.setattr(base.PrefectHttpxSyncClient, "send", send)
    assert not known_answers.install(KnownAnswers(ADDRESS, PENDING, {}))
    assert base.PrefectHttpxSyncClient.send is send


RESCHEDULED = {"type": "SCHEDULED", "name": "AwaitingConcurrencySlot"}
"""The state of a run that another worker, which claimed in vain, made wait."""


def start(known: KnownAnswers, *answers: tuple[int, str, JsonObject]) -> tuple[str, list[str]]:
    """Propose Running to a Prefect with these ``answers``: code, status and state.

    Return the last status, and the types of the states that were proposed.
    """
    proposed, left = list[JsonObject](), list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        proposed.append(json.loads(request.content)["state"])
        code, status, state = left.pop(0)
        return httpx.Response(code, json={"status": status, "state": state})

    async def propose() -> str:
        transport = httpx.MockTransport(answer)
        async with base.PrefectHttpxAsyncClient(base_url=ADDRESS, transport=transport) as client:
            body = {"state": {"type": "RUNNING"}, "force": False}
            return str((await client.post(f"{RUN_PATH}/set_state", json=body)).json()["status"])

    assert known_answers.install(known)
    status = asyncio.run(propose())
    for each in proposed[1:2]:
        assert each["state_details"]["scheduled_time"] == "2026-01-15T12:00:03Z"
    return status, [each["type"] for each in proposed]


def test_a_run_with_a_claim_does_not_wait_for_a_later_time() -> None:
    known = KnownAnswers(ADDRESS, PENDING, {}, is_own=True)
    accepted = (200, "ACCEPT", RUNNING)
    found = start(known, (200, "WAIT", RESCHEDULED), accepted, accepted)
    assert found == ("ACCEPT", ["RUNNING", "PENDING", "RUNNING"])


@pytest.mark.parametrize("code", [200, 404])
def test_a_run_that_was_cancelled_meanwhile_does_not_run(code: int) -> None:
    known = KnownAnswers(ADDRESS, PENDING, {}, is_own=True)
    refused = (code, "ABORT", {"type": "CANCELLED", "name": "Cancelled"})
    found = start(known, (200, "WAIT", RESCHEDULED), refused)
    assert found == ("WAIT", ["RUNNING", "PENDING"])


@pytest.mark.parametrize(
    ("is_own", "state"),
    [
        (False, RESCHEDULED),
        (True, {"type": "PENDING", "name": "Pending"}),  # Prefect's clock is behind
        (True, {"type": "SCHEDULED", "name": "Scheduled"}),  # a person has rescheduled it
    ],
)
def test_other_runs_wait_as_prefect_says(is_own: bool, state: JsonObject) -> None:
    known = KnownAnswers(ADDRESS, PENDING, {}, is_own=is_own)
    assert start(known, (200, "WAIT", state)) == ("WAIT", ["RUNNING"])
