"""Answers of Prefect's API that the process of a run knows, so that its clients need not ask.

The worker reads a run, its deployment and other records before it starts the run's process, in
which Prefect's engine reads them again, some of them twice. So the worker hands over what it has
read, and the process answers these requests itself::

    worker ─ LaunchRequest.known ─► `install` ─► each client of Prefect in the process

An answer is given once or twice, only within `VALID_SECONDS`, and not after a change of its record
by the process itself, so that a flow that reads its own records gets them from Prefect. The run
itself is known at the start of the process, and, at its first start, once more after Prefect has
accepted its change to Running. A change of the run between the worker's poll and its start is not
seen.

If Prefect answers that a run of ours has to wait for a later time, the process sets it to Pending
again. The process has the claim, and another worker, which claimed in vain, may have rescheduled
the run just after it became Pending: no change in Prefect is a compare-and-set. Otherwise the run
would keep its slot until that time::

    Running ─► wait ─► Pending, scheduled as when it was claimed ─► Running

If the claim was lost meanwhile, the flow notices before its effect (`execution.claim`).
"""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx

from daybook.json_text import JsonObject
from daybook.prefect.flow_runs import ENDED_TYPES
from daybook.prefect.states import WAITING_NAME

logger = logging.getLogger(__name__)

OF_FLOW = frozenset({"flow_version", "empirical_policy"})
"""Fields of a run that Prefect's engine sets from its flow when it starts the run."""
VALID_SECONDS = 5.0
"""How long an answer is known, from the moment at which it was handed over or derived."""
STORAGE = "/admin/storage"
"""Path of the default storage of results."""
USES_OF_A_RECORD = 2
"""How often each other record is known: the engine reads it, and an event of the engine names it.
"""


class KnownAnswers:
    """Known answers of one run's process.

    ``address`` is that of Prefect's API; other servers are asked. ``flow_run`` is the run as JSON,
    in its state Pending. ``others`` maps paths below the address (``/deployments/<id>``) to bodies,
    each for `USES_OF_A_RECORD` answers. If the flow ``is_own``, Prefect need not know its version
    and its retries, because Daybook's flows have none, and its process has the claim. ``ended`` is
    called with the type of a final state (``COMPLETED``) that Prefect has accepted for the run.
    """

    def __init__(
        self,
        address: str,
        flow_run: JsonObject,
        others: Mapping[str, JsonObject],
        ended: Callable[[str], None] = lambda state: None,
        *,
        is_own: bool = False,
    ) -> None:
        self.address, self._run, self._ended = address.rstrip("/"), flow_run, ended
        self._is_own = is_own
        self._run_path = f"/flow_runs/{flow_run['id']}"
        self._known: dict[str, tuple[float, list[JsonObject]]] = {}
        for path, body in {self._run_path: flow_run, **others}.items():
            self._learn(path, body, 1 if path == self._run_path else USES_OF_A_RECORD)

    def _learn(self, path: str, body: JsonObject, uses: int) -> None:
        self._known[path] = time.monotonic() + VALID_SECONDS, [body] * uses

    def answer(self, request: httpx.Request, path: str) -> httpx.Response | None:
        """Return the known answer to the request for ``path``; None if Prefect has to answer."""
        if request.method == "PATCH" and self._is_own and path == self._run_path:
            if not json.loads(request.content).keys() <= OF_FLOW:
                return None
            return httpx.Response(httpx.codes.NO_CONTENT, request=request)
        if request.method != "GET":
            return None
        until, bodies = self._known.get(path, (0.0, []))
        if time.monotonic() >= until or not bodies:
            return None
        try:
            body = bodies.pop()
        except IndexError:  # another thread was faster
            return None
        return httpx.Response(httpx.codes.OK, json=body, request=request)

    def pending_again(self, path: str, response: httpx.Response) -> JsonObject | None:
        """Return the body of a change to Pending if the run has to wait (see above); else None."""
        if not self._is_own or path != f"{self._run_path}/set_state" or not response.is_success:
            return None
        result = response.json()
        if result.get("status") != "WAIT" or result["state"]["name"] != WAITING_NAME:
            return None
        details = self._run["state"]["state_details"]
        details = {"scheduled_time": details["scheduled_time"], "transition_id": str(uuid4())}
        return {"state": {"type": "PENDING", "name": "Pending", "state_details": details}}

    def observe(self, request: httpx.Request, path: str, response: httpx.Response) -> None:
        """Learn from Prefect's answer to a change of a record."""
        if request.method == "GET":
            return
        for each in list(self._known):
            if _collection(each) == _collection(path):  # also an upsert, which names no id
                self._known.pop(each, None)
        if not path.startswith(self._run_path) or not response.is_success:
            return
        if request.method == "PATCH" and path == self._run_path:
            self._run = {**self._run, **json.loads(request.content)}
        if path != f"{self._run_path}/set_state":
            return
        result = response.json()
        state = result.get("state") or {}
        if result.get("status") != "ACCEPT":
            return
        if state.get("type") == "RUNNING" and not self._run["run_count"]:
            self._run = running(self._run, state)
            self._learn(self._run_path, self._run, 1)
        elif state.get("type") in ENDED_TYPES:
            self._ended(state["type"])


def _collection(path: str) -> str:
    return path.split("/")[1].replace("work_queues", "work_pools") if "/" in path else ""


def running(flow_run: JsonObject, state: JsonObject) -> JsonObject:
    """Return a run that has never run as Prefect has it after it accepted the Running ``state``."""
    return {
        **flow_run,
        "state": state,
        "state_id": state["id"],
        "state_type": state["type"],
        "state_name": state["name"],
        "run_count": flow_run["run_count"] + 1,
        "start_time": flow_run["start_time"] or state["timestamp"],
        "next_scheduled_start_time": None,
    }


def install(known: KnownAnswers) -> bool:
    """Make Prefect's clients of this process use ``known``; return whether this succeeded.

    Fallback: Prefect's own behaviour, which asks the server each time.
    """
    try:
        from prefect.client import base

        classes = (base.PrefectHttpxAsyncClient, base.PrefectHttpxSyncClient)
        for each in classes:
            if list(inspect.signature(each.send).parameters) != _PARAMETERS:
                raise LookupError(f"{each.__name__} does not send requests as expected")
    except (ImportError, AttributeError, LookupError) as error:
        logger.warning("Prefect's clients ask the server for what this process knows: %s", error)
        return False
    asynchronous: Any
    synchronous: Any
    asynchronous, synchronous = classes
    send_async, send_sync = asynchronous.send, synchronous.send

    async def answer_async(
        self: Any, request: httpx.Request, *args: Any, **options: Any
    ) -> httpx.Response:
        path = _path(known, self, request)
        if (response := known.answer(request, path)) is None:
            response = await send_async(self, request, *args, **options)
            if (pending := known.pending_again(path, response)) is not None:
                change = self.build_request("POST", request.url, json=pending)
                status = ""
                with suppress(httpx.HTTPError):  # the engine waits, and asks again
                    status = (await send_async(self, change, *args, **options)).json()["status"]
                if status == "ACCEPT":  # not if the run was cancelled meanwhile
                    response = await send_async(self, request, *args, **options)
            known.observe(request, path, response)
        return response

    def answer_sync(
        self: Any, request: httpx.Request, *args: Any, **options: Any
    ) -> httpx.Response:
        path = _path(known, self, request)
        if (response := known.answer(request, path)) is None:
            response = send_sync(self, request, *args, **options)
            known.observe(request, path, response)
        return response

    asynchronous.send, synchronous.send = answer_async, answer_sync
    return True


_PARAMETERS = ["self", "request", "args", "kwargs"]


def _path(known: KnownAnswers, client: Any, request: httpx.Request) -> str:
    """Return the path of the request below the API's address; "" for another server."""
    if str(client.base_url).rstrip("/") != known.address:
        return ""
    base: str = client.base_url.path.rstrip("/")
    return request.url.path.removeprefix(base)
