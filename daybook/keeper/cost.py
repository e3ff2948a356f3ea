"""Cost of a service's cycle, meters of CPU time and requests, and the CPU budget of a loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, cast

from pydantic import BaseModel, PlainSerializer

from daybook.instants import LocalTime

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

T = TypeVar("T")

CPU_SHARE = 0.02
"""Share of one core that a loop with a budget may use in the long run."""
MAX_BURST_SECONDS = 2.0
"""CPU seconds that a loop with a budget may use in a burst after a long time without use."""
MAX_WAIT_SECONDS = 300.0
"""The longest wait that an overdrawn budget causes."""


def _rounded(digits: int) -> PlainSerializer:
    return PlainSerializer(lambda each: round(each, digits), when_used="json")


class CycleCost(BaseModel, frozen=True):
    """Cost of a service's last cycle.

    ``at`` is the end of the cycle (ledger time). ``error`` is empty if the cycle succeeded. The
    leader stores the costs with each renewal of its lease; in JSON, the seconds are rounded. A
    field that a leader of another version did not store has its default.
    """

    at: LocalTime | None = None
    seconds: Annotated[float, _rounded(3)] = 0.0
    cpu_seconds: Annotated[float, _rounded(4)] = 0.0
    requests: int = 0
    error: str = ""


class MeteredCoroutine(Generic[T]):
    """Awaitable that measures the CPU time of a coroutine in this thread; await it only once.

    ``seconds`` excludes other tasks of the event loop, and other threads such as a database
    driver's. The CPU clock of the process would include the work of the whole worker.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[], Any] = partial(self._work.send, None)
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
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, value)


class CountingClient:
    """Wrapper of Prefect's client that counts each method call, without retries, as one request."""

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


class CpuBudget:
    """Token bucket of CPU seconds.

    A cycle that overdraws the bucket delays the next cycle until the debt is paid off, but at most
    by `MAX_WAIT_SECONDS`.
    """

    def __init__(
        self,
        share: float = CPU_SHARE,
        saved: float = MAX_BURST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._most, self._clock = share, saved, clock
        self._left, self._at = saved, clock()

    def spend(self, seconds: float) -> None:
        """Deduct ``seconds`` of used CPU time from the budget."""
        self._accrue()
        self._left = max(self._left - seconds, -MAX_WAIT_SECONDS * self._share)

    def wait(self) -> float:
        """Return the seconds until the debt is paid off."""
        self._accrue()
        return max(0.0, -self._left / self._share)

    def _accrue(self) -> None:
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._share, self._most)
        self._at = now
