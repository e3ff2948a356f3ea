"""The chaos test with replicas of Prefect, for a short time (`make chaos` runs longer ones)."""

from __future__ import annotations

import pytest

from chaos import replicas
from tests.chaos import chaos_process

MAX_SECONDS = 900


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(MAX_SECONDS + 90)
@pytest.mark.usefixtures("postgresql")
@pytest.mark.skipif(bool(replicas.missing()), reason=f"service absent: {replicas.missing()}")
def test_faults_of_replicas_and_redis_break_no_promise() -> None:
    # The seed draws kills of an API replica, the services, HAProxy and Redis.
    faults = ("--seconds", "45", "--faults", "12", "--longest-stop", "15", "--seed", "15")
    words = ("--ledger", "postgresql", "--replicas", "--rate", "0.5", *faults)
    printed = chaos_process.run(*words, seconds=MAX_SECONDS, variables={})
    for each in ("an api", "the services", "the balancer", "the redis"):
        assert f"| … kill {each} |" in printed
