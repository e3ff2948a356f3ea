"""The doors of Prefect's worker class that lead past the claim are shut."""

from __future__ import annotations

from typing import Any, cast

import pytest

from daybook.errors import InvalidInput
from daybook.worker.prefect_worker import DaybookWorker

pytestmark = pytest.mark.anyio

NOT_LOOKED_AT = cast(Any, None)


async def test_what_has_no_claim_is_neither_taken_nor_run() -> None:
    worker = DaybookWorker(work_pool_name="daybook")
    with pytest.raises(InvalidInput, match=r"call start\(\)"):
        await worker.get_and_submit_flow_runs()
    with pytest.raises(InvalidInput, match="use run_deployment instead of submit"):
        await worker.run(NOT_LOOKED_AT, NOT_LOOKED_AT)
