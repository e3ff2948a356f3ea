"""Cost meters of a cycle: CPU seconds of one coroutine, and the number of requests to Prefect."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

T = TypeVar("T")


class MeteredCoroutine(Generic[T]):
    """A coroutine whose own CPU time in this thread is measured; await it once.

    The time of other tasks of the loop is not counted, nor that of other threads (such as a
    database driver's): the process's clock would count the work of a whole worker.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        while True:
            began = time.thread_time()
            try:
                awaited = step()
            except StopIteration as end:
                return cast("T", end.value)
            finally:
                self.seconds += time.thread_time() - began
            try:
                value = yield awaited
            except BaseException as error:
                step = _step_throwing(self._work, error)
            else:
                step = _step_sending(self._work, value)


def _step_sending(work: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: work.send(value)


def _step_throwing(work: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: work.throw(error)


class CountingClient:
    """Prefect's client with a count of its calls; each call is one request, retries aside."""

    def __init__(self, client: PrefectClient) -> None:
        self._client, self.requests = client, 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        def counted_call(*args: Any, **kwargs: Any) -> Any:
            self.requests += 1
            return attribute(*args, **kwargs)

        return counted_call

    @property
    def as_client(self) -> PrefectClient:
        return cast("PrefectClient", self)
