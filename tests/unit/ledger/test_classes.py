"""Requirement 12: classes with limits of their own, beside the limit of all."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.ledger import claims, offers
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Granted, Offer, Waiting
from daybook.ledger.states import Status
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

LIGHT, HEAVY = "light", "resource-intensive"
LIMITS = {HEAVY: 1, LIGHT: 2}


async def _jobs(book: Book, kinds: str) -> list[StoredJob]:
    """A job for each letter: l for light, m for medium, h for resource-intensive."""
    names = {"l": LIGHT, "m": "medium", "h": HEAVY}
    return [
        await book.add(f"{kind}{place}", every="1h", **{"class": names[kind]})
        for place, kind in enumerate(kinds)
    ]


def _offers(book: Book, jobs: list[StoredJob], most: int) -> list[Offer]:
    """Of each job one run, whose due times rise by a second and have all passed."""
    due = book.clock.now().replace(microsecond=0) - timedelta(seconds=len(jobs))
    return [
        Offer(
            offers.flow_key(job.row.name),
            "agent-prompt",
            "manual",
            due + timedelta(seconds=place),
            f"w:{place}",
            job.job.parameters(),
            job_id=job.id,
            flow_run_id=job.row.name,
            most=most,
            classes=LIMITS,
        )
        for place, job in enumerate(jobs)
    ]


async def _next(book: Book, most: int) -> list[str | None]:
    async with book.ledger.read() as session:
        found = await claims.next_for_slot(session, book.clock.now(), most, LIMITS)
    return [row.flow_run_id for row in found]


async def test_a_class_waits_for_its_own_and_holds_no_other_up(book: Book) -> None:
    first, second, other = _offers(book, await _jobs(book, "hhm"), most=4)
    held = await book.begun(first)

    answer = await book.claim(second)

    assert isinstance(answer, Waiting)
    assert answer.why == "1 of 1 resource-intensive runs are at work"
    assert (await book.row(str(answer.run_id))).waits_for == "slot"
    assert isinstance(await book.claim(other), Granted)  # though it was due later
    assert await _next(book, 4) == []

    await book.settle(held, Status.SUCCEEDED)
    assert await _next(book, 4) == ["h1"]
    assert isinstance(await book.claim(second), Granted)


async def test_a_free_slot_of_a_class_is_its_earliest_due_ones(book: Book) -> None:
    *three, late = _offers(book, await _jobs(book, "hhhh"), most=4)
    held = await book.begun(three[0])
    for each in (*three[:0:-1], late):
        assert isinstance(await book.claim(each), Waiting)
    await book.settle(held, Status.SUCCEEDED)

    answer = await book.claim(late)
    assert isinstance(answer, Waiting)
    assert (
        answer.why == "0 of 1 resource-intensive runs are at work, and 2 that were due earlier wait"
    )
    assert isinstance(await book.claim(three[1]), Granted)


async def test_the_limit_of_all_binds_every_class(book: Book) -> None:
    one, two, third = _offers(book, await _jobs(book, "lhl"), most=2)
    await book.begun(one)
    await book.begun(two)

    answer = await book.claim(third)

    assert isinstance(answer, Waiting)
    assert answer.why == "2 of 2 runs are at work"


async def test_those_woken_are_what_can_begin_and_no_more(book: Book) -> None:
    jobs = await _jobs(book, "mmm" + "hhh" + "lll" + "mm")
    blockers, others = jobs[:3], jobs[3:]
    all_of_them = _offers(book, [*blockers, *others], most=3)
    held = [await book.begun(each) for each in all_of_them[:3]]
    for each in all_of_them[3:]:
        assert isinstance(await book.claim(each), Waiting)
    for blocker in held:
        await book.settle(blocker, Status.SUCCEEDED)

    assert await _next(book, 3) == ["h3", "l6", "l7"]
    assert await _next(book, 5) == ["h3", "l6", "l7", "m9", "m10"]
    # What is woken is what the claim grants, in whatever order they come.
    by_name = {each.flow_run_id: each for each in all_of_them}
    granted = [
        name
        for name in ("m10", "m9", "l8", "l7", "l6", "h5", "h4", "h3")
        if isinstance(await book.claim(by_name[name]), Granted)
    ]
    assert sorted(granted) == ["h3", "l6", "l7"]


async def test_without_limits_of_their_own_only_that_of_all_binds(book: Book) -> None:
    many = _offers(book, await _jobs(book, "hhhhh"), most=4)
    answers = [await book.claim(replace(each, classes={})) for each in many]
    assert [type(each) for each in answers] == [Granted] * 4 + [Waiting]


async def test_a_run_without_a_class_is_medium(book: Book) -> None:
    """A direct call, or one that a version before this one wrote down."""
    limits = {"medium": 1}
    direct = Offer(
        offers.flow_key("d"), "agent-prompt", "direct", book.clock.now(), "here:1", {"prompt": "Hi"}
    )
    await book.granted(direct)
    (job,) = _offers(book, await _jobs(book, "m"), most=4)

    answer = await book.claim(replace(job, classes=limits))

    assert isinstance(answer, Waiting)
    assert answer.why == "1 of 1 medium runs are at work"


@pytest.mark.slow
async def test_of_fifty_that_claim_at_once_no_limit_is_exceeded(book: Book) -> None:
    left = _offers(book, await _jobs(book, "lmmmh" * 10), most=6)
    order = {each.occurrence: each.due for each in left}
    began: list[str] = []
    async with AsyncExitStack() as opened:
        ledgers = [
            await opened.enter_async_context(Ledger(book.ledger.address, book.clock))
            for _ in range(10)
        ]
        while left:
            async with asyncio.timeout(60):
                claimed = (claims.claim(ledgers[n % 10], each) for n, each in enumerate(left))
                answers = await asyncio.gather(*claimed)
            granted = [each for each in answers if isinstance(each, Granted)]
            kinds = Counter(each.parameters["policy"]["class"] for each in granted)
            assert 1 <= len(granted) <= 6
            assert kinds[HEAVY] <= 1
            assert kinds[LIGHT] <= 2
            began += [each.occurrence for each in granted]
            left = [each for each in left if each.occurrence not in began]
            for each in granted:
                await claims.begin(book.ledger, each.run_id, each.fence)
                await book.settle(each, Status.SUCCEEDED)

    assert len(began) == len(set(began)) == 50
    assert {row.status for row in await book.rows()} == {"succeeded"}  # none missed for waiting
    # From the second round on the ledger knew who waits: of a class each began when it was due.
    for kind in "lmh":
        of_kind = [order[each] for each in began if each.startswith(f"flow:{kind}")]
        assert of_kind[6:] == sorted(of_kind[6:])
