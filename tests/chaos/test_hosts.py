"""The chaos test on three hosts, for a short time (`make chaos` runs longer ones)."""

from __future__ import annotations

import pytest

from chaos import hosts, replicas, standby
from tests.chaos import chaos_process

MAX_SECONDS = 900
MISSING = hosts.missing() or standby.missing() or replicas.missing()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(MAX_SECONDS + 90)
@pytest.mark.skipif(bool(MISSING), reason=f"service absent: {MISSING}")
def test_partitions_failovers_and_skewed_clocks_break_no_promise() -> None:
    # The seed draws a failover, partitions, a flush of Redis, kills of PostgreSQL and a replica.
    faults = ("--seconds", "90", "--faults", "16", "--longest-stop", "30", "--seed", "129")
    words = ("--ledger", "postgresql", "--hosts", "--rate", "0.5", *faults)
    printed = chaos_process.run(*words, seconds=MAX_SECONDS, variables={})
    for each in ("fail over to the standby", "partition two hosts", "kill a postgres"):
        assert f"| … {each} |" in printed
