"""What a pass costs: CPU seconds of one coroutine, and how often Prefect was asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

T = TypeVar("T")


class Metered(Generic[T]):
    """A coroutine whose own CPU time in this thread is measured: `await metered`, once.

    What other tasks of the loop do meanwhile is not counted, nor what other threads do for it (the
    driver of a database): the process's clock would count the work of a whole worker.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        go_on: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        while True:
            began = time.thread_time()
            try:
                waits_for = go_on()
            except StopIteration as end:
                return cast("T", end.value)
            finally:
                self.seconds += time.thread_time() - began
            try:
                value = yield waits_for
            except BaseException as error:
                go_on = _throwing(self._work, error)
            else:
                go_on = _sending(self._work, value)


def _sending(work: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: work.send(value)


def _throwing(work: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: work.throw(error)


class Counted:
    """Prefect's client, with a count of the calls: each is one request, repetitions aside."""

    def __init__(self, client: PrefectClient) -> None:
        self._client, self.requests = client, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def called(*given: Any, **named: Any) -> Any:
            self.requests += 1
            return found(*given, **named)

        return called

    @property
    def as_client(self) -> PrefectClient:
        return cast("PrefectClient", self)
