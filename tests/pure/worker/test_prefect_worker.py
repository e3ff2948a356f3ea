"""Methods of Prefect's worker class that would bypass the claim are refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from daybook.errors import InvalidInput
from daybook.worker.prefect_worker import DaybookWorker

pytestmark = pytest.mark.anyio

NOT_LOOKED_AT = cast(Any, None)


async def test_the_worker_class_refuses_to_submit_or_run_without_a_claim() -> None:
    worker = DaybookWorker(work_pool_name="daybook")
    with pytest.raises(InvalidInput, match=r"call start\(\)"):
        await worker.get_and_submit_flow_runs()
    with pytest.raises(InvalidInput, match="use run_deployment instead of submit"):
        await worker.run(NOT_LOOKED_AT, NOT_LOOKED_AT)
