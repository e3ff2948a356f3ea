"""A wrong escalation policy stops every process that would apply it, when the process starts."""

from __future__ import annotations

import pytest

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.operations.up import up
from daybook.worker.prefect_worker import DaybookWorker

pytestmark = pytest.mark.anyio

WRONG = "[tasks]\nfan_out = 4\n"
MESSAGE = r"tasks: request_worker: 4 is not greater than fan_out \(4\)"


class Talk:
    """Output that fails the test if anything uses it."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


@pytest.fixture
def wrong(daybook_home: Home) -> Home:
    daybook_home.path.mkdir(parents=True, exist_ok=True)
    (daybook_home.path / "config.toml").write_text(WRONG)
    return daybook_home


async def test_up_reports_a_wrong_policy_and_starts_nothing(wrong: Home) -> None:
    before = sorted(wrong.path.rglob("*"))
    with pytest.raises(InvalidInput, match=MESSAGE):
        await up(Talk())  # type: ignore[arg-type]
    assert sorted(wrong.path.rglob("*")) == before


async def test_a_worker_reports_a_wrong_policy_and_opens_no_ledger(wrong: Home) -> None:
    before = sorted(wrong.path.rglob("*"))
    with pytest.raises(InvalidInput, match=MESSAGE):
        await DaybookWorker(work_pool_name="daybook").start()
    assert sorted(wrong.path.rglob("*")) == before
