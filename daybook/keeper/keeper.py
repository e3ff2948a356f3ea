"""The keeper: leader election, and the repetition of the background services (`services.loops`).

Each worker process runs a keeper, and so does `daybook keeper`. One keeper leads and runs all
loops; the others stand by and run only the loops with `everywhere`.

A failing service stops no other loop: the keeper logs the error, and the next cycle tries again. A
leader that does not reach Prefect releases the leadership for a while, because another process may
reach Prefect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter

from daybook.errors import LeadershipLost, LedgerUnreachable, Unreachable
from daybook.feature import leaving_out
from daybook.keeper import event_stream, leadership, overview
from daybook.keeper.cost import CpuBudget, CycleCost, MeteredCoroutine
from daybook.keeper.leadership import Leadership
from daybook.keeper.services import CYCLE_TIMEOUT_SECONDS, Cycle, Loop, Service, loops
from daybook.keeper.term import Context, Signal, Term
from daybook.ledger.engine import Ledger
from daybook.prefect import instances
from daybook.timing import TIMING

log = logging.getLogger(__name__)

PREFECT_TIMEOUT_SECONDS = 90.0
"""Time without an answer from Prefect after which the leader releases the leadership."""
REACQUIRE_DELAY_SECONDS = 2 * TIMING.leader_check.total_seconds()
"""How long a process waits after it released the leadership before it competes again."""
_EDITS = EventFilter(
    event=EventNameFilter(
        name=[f"prefect.deployment.{done}" for done in ("created", "updated", "deleted")]
    )
)


class Keeper:
    """Keeper of one process. ``holder`` is the process's unique name (`leadership.new_holder`).

    ``supervised`` returns the ids of the flow runs whose processes this process supervises. The
    supervisor records the ends of these runs, so the keeper does not. ``read_overview`` returns the
    findings of `daybook status` for the ping and the tables; a package above this one provides it.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        *,
        supervised: Callable[[], Collection[str]] = tuple,
        read_overview: overview.ReadOverview = overview.read_nothing,
    ) -> None:
        self._ledger, self._supervised = ledger, supervised
        self._read_overview = read_overview
        self.leadership = Leadership(ledger, holder, note=self._note)
        self.costs: dict[str, CycleCost] = {}
        self._signals = {each: asyncio.Event() for each in Signal}
        self._term: Term | None = None

    async def run(self) -> NoReturn:
        """Run until this task is cancelled.

        Then release the leadership, and delete the record of this process's Prefect server.
        """
        try:
            async with (
                leadership.leader_client(self.leadership) as client,
                asyncio.TaskGroup() as group,
            ):
                context = self.context(client)
                group.create_task(self.leadership.keep())
                for loop in loops():
                    group.create_task(self._run_loop(loop, context))
                group.create_task(event_stream.listen(_EDITS, self._on_edit))
        finally:
            with suppress(TimeoutError, LedgerUnreachable):
                async with asyncio.timeout(5.0):
                    await self.leadership.release()
                    await instances.forget(self._ledger, self.leadership.holder)
        raise AssertionError("its tasks end only when they are cancelled")

    def context(self, client: PrefectClient) -> Context:
        """Return the context of this process's services."""
        return Context(
            self._ledger,
            client,
            self.leadership.holder,
            self._supervised,
            self._signals,
            read_overview=self._read_overview,
        )

    async def _on_edit(self, event: Event) -> None:
        self._signals[Signal.EDITED].set()

    async def _run_loop(self, loop: Loop, context: Context) -> None:
        """Repeat ``loop``; return only if it is left out, because a foreign part of it fails."""
        with leaving_out(loop.feature, "loops"):
            try:
                if loop.prepare is not None:
                    loop.prepare()
                await self._repeat(loop, context)
            except Exception:
                whose = f" of the feature {loop.feature.name}" if loop.feature else ""
                log.exception(
                    "a loop%s ends until the next start", whose, extra={"action": "pass_failed"}
                )
                raise

    async def _repeat(self, loop: Loop, context: Context) -> NoReturn:
        budget = CpuBudget()
        signal = self._signals[loop.signal] if loop.signal else asyncio.Event()
        process, term, cycles = Term(), None, list[Cycle]()
        while True:
            current = process if loop.everywhere else await self.leading()
            if current is not term:
                term, cycles = current, loop.start(context, current)
            signal.clear()
            charged = loop.charged is not None and loop.charged(current)
            pause = await self.cycle(loop, cycles)
            if charged:
                budget.spend(sum(self.costs[each.name].cpu_seconds for each in loop.services))
            if pause is not None:
                await asyncio.sleep(pause)
                continue
            pause = max(loop.min_pause().total_seconds(), budget.wait())
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(loop.interval().total_seconds() - pause):
                    await signal.wait()

    async def leading(self) -> Term:
        """Wait until this process leads; return the current term."""
        fence = await self.leadership.wait_until_leading()
        if self._term is None or self._term.fence != fence:
            self.leadership.last_answer_at = time.monotonic()
            self._term = Term(fence)
        return self._term

    async def cycle(self, loop: Loop, cycles: Sequence[Cycle]) -> float | None:
        """Run ``cycles``, those of the loop's services; return the seconds until the next cycle.

        None stands for the loop's interval. After a failure, the next cycle starts at the earliest
        after `Timing.runs_interval`. If the loop checks Prefect, and Prefect has not answered for
        `PREFECT_TIMEOUT_SECONDS`, release the leadership.
        """
        pause: float | None = None
        for service, cycle in zip(loop.services, cycles, strict=True):
            succeeded, result = await self._run(service, cycle)
            if isinstance(result, float):
                pause = result
            if not succeeded and loop.interval() < TIMING.runs_interval:
                pause = TIMING.runs_interval.total_seconds()
            if service.required and (not succeeded or result is False):
                break
        # Even a slow answer counts, and `unread` sends a request every ten seconds.
        answered = self.leadership.last_answer_at
        if loop.checks_prefect and time.monotonic() - answered > PREFECT_TIMEOUT_SECONDS:
            self.leadership.last_answer_at = time.monotonic()
            log.warning("Prefect does not answer: releasing leadership")
            await self.leadership.release(rest=REACQUIRE_DELAY_SECONDS)
        return pause

    async def _run(self, service: Service, cycle: Cycle) -> tuple[bool, object]:
        """Run one cycle of a service; return whether it succeeded, and the service's result.

        Record the cost of the cycle. Log a failure instead of raising it.
        """
        name, started, request_count, error = service.name, time.monotonic(), [0], ""
        timeout = CYCLE_TIMEOUT_SECONDS if service.timeout is None else service.timeout
        metered = MeteredCoroutine(cycle())
        token = leadership.request_count.set(request_count)
        try:
            async with asyncio.timeout(timeout):
                return True, await metered
        except LeadershipLost as lost:
            error = str(lost)
            log.info("%s: %s", name, lost, extra={"action": "pass_lost"})
        except (Unreachable, httpx.HTTPError) as unreachable:
            error = str(unreachable) or type(unreachable).__name__
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except TimeoutError:
            error = f"timed out after {timeout:g} s"
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except Exception as failure:
            error = repr(failure)
            log.exception("%s failed", name, extra={"action": "pass_failed"})
        finally:
            leadership.request_count.reset(token)
            seconds = time.monotonic() - started
            self.costs[name] = CycleCost(
                at=self._ledger.now(),
                seconds=seconds,
                cpu_seconds=metered.seconds,
                requests=request_count[0],
                error=error,
            )
            log.debug(
                "%s: %.3f s, %.3f s of CPU, %d requests",
                name,
                seconds,
                metered.seconds,
                request_count[0],
                extra={"action": "pass"},
            )
        return False, None

    def _note(self) -> dict[str, Any]:
        """Return the data about this leader that `daybook status` shows."""
        at = self._term.imports.observed_at if self._term else None
        return {
            "observed_at": None if at is None else at.isoformat(),
            "passes": {name: cost.model_dump(mode="json") for name, cost in self.costs.items()},
        }
