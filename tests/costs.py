"""Costs of the tests: CPU seconds per file and in total.

CPU time is the same on a quiet machine and on a loaded one. It counts the process of the tests,
every child that it has waited for, and Prefect's server.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import settings

MOST = 10
"""Number of files shown."""

MEASURE_INTERVAL_SECONDS = 200.0

TABLE = Path(__file__).with_name("slow_costs.json")
"""CPU seconds of each file of slow tests, as measured by the last `--write-costs`."""


SERVERS = set[int]()
"""Processes that live as long as the session; their cost counts for the test that used them."""


def cpu() -> float:
    """Return the CPU seconds of this process and its waited-for children, and of long-lived ones.

    These are `SERVERS`, and the server from which `tests.side_by_side` forks processes.
    """
    fork_server: int | None = vars(forkserver)["_forkserver"]._forkserver_pid
    living = SERVERS | {fork_server} if fork_server else SERVERS
    return sum(os.times()[:4]) + sum(map(_of, living))


def import_of_prefect() -> float:
    """Return the CPU seconds that a new interpreter needs to import Prefect's server now, here.

    Most of the cost of the tests is such imports, so this is the unit of their budget: the same
    tests needed 653 CPU seconds on one machine and 1,076 on another. The first call of a process
    imports twice, because the first import may write bytecode.
    """
    command = [sys.executable, "-c", "import prefect.server.api.server"]
    _write_bytecode(*command)
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


@cache
def _write_bytecode(*command: str) -> None:
    subprocess.run(command, check=True)


def _of(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended, and this process has waited for it
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def examples(full: int, share: int = 10) -> int:
    """Return the number of examples of a property test.

    `make test` (profile `few`) runs one in ``share`` of the ``full`` number.
    """
    is_few = settings().max_examples < settings.get_profile("default").max_examples
    return full // share if is_few else full


def one_in(number: int, cases: Iterable[Any]) -> list[Any]:
    """Return the cases of a `parametrize`: `make test` runs the first of each ``number`` of them.

    The others are marked `slow`. A tuple is a case of several arguments.
    """
    return [
        pytest.param(
            *(case if type(case) is tuple else (case,)),
            marks=pytest.mark.slow if place % number else (),
        )
        for place, case in enumerate(cases)
    ]


def slices(files: Iterable[str], costs: dict[str, float], number: int) -> list[set[str]]:
    """Divide the files into ``number`` slices of about the same CPU time.

    The most expensive file is placed first, each into the cheapest slice so far. A file without a
    cost, in CPU seconds, counts as one second.
    """
    found = [set[str]() for _ in range(number)]
    totals = [0.0] * number
    for file in sorted(files, key=lambda each: (-costs.get(each, 1.0), each)):
        cheapest = totals.index(min(totals))
        found[cheapest].add(file)
        totals[cheapest] += costs.get(file, 1.0)
    return found


def chosen_slice(text: str) -> tuple[int, int]:
    """Parse ``k/n``: the k-th of n slices, both positive."""
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise pytest.UsageError(f"--slice {text}: write k/n, such as 2/5 for the second of five")
    return int(number), int(total)


class Costs:
    """Pytest plugin that shows what the tests cost.

    Fails them if their CPU time is more than ``budget`` times that of `import_of_prefect`, which
    each process of the tests measures at the start, and again between two tests every
    `MEASURE_INTERVAL_SECONDS`: other virtual machines may slow this one down for minutes. A
    ``budget`` of 0 is no limit.
    """

    def __init__(self, budget: int, *, write: bool = False) -> None:
        self._budget = budget
        self._write = write
        self._units = list[float]()
        self._measuring, self._measured_at = 0.0, math.inf
        self._counted = cpu()
        self._files = defaultdict[str, float](float)
        self._workers = list[float]()

    @pytest.hookimpl(trylast=True)  # after `-m` has selected
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out the tests that are not in the slice of `--slice k/n`.

        All test files are divided, also those without a selected test, so that the slices of a
        round are the same whatever is selected.
        """
        if not (text := config.getoption("--slice")):
            return
        number, total = chosen_slice(text)
        every = TABLE.parent.rglob("test_*.py")
        files = {str(path.relative_to(TABLE.parents[1])) for path in every}
        chosen = slices(files, _table(), total)[number - 1]
        config.hook.pytest_deselected(items=[i for i in items if _file(i.nodeid) not in chosen])
        items[:] = [item for item in items if _file(item.nodeid) in chosen]

    def pytest_runtest_logstart(self) -> None:
        """Charge the cost since the last test, such as collection, to no file."""
        self._counted = cpu()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: object) -> Any:
        report = yield
        now = cpu()
        report.user_properties.append(("cpu", now - self._counted))
        self._counted = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = _file(report.nodeid)
        for name, spent in report.user_properties:
            if name == "cpu" and isinstance(spent, float):
                self._files[file] += spent

    def pytest_collection_finish(self) -> None:
        if self._budget:
            self._measure()

    def pytest_runtest_logfinish(self) -> None:
        if time.monotonic() - self._measured_at > MEASURE_INTERVAL_SECONDS:
            self._measure()

    def _measure(self) -> None:
        before = cpu()
        self._units.append(import_of_prefect())
        self._measuring += cpu() - before
        self._measured_at = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["cpu"], output["units"] = cpu() - self._measuring, self._units
            return
        if self._write:
            known = _table() | {file: round(spent, 1) for file, spent in self._files.items()}
            living = {file: known[file] for file in sorted(known) if Path(file).exists()}
            TABLE.write_text(json.dumps(living, indent=2) + "\n")
        if self._total() > self._limit():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _limit(self) -> float:
        return self._budget * fmean(self._units) if self._units else math.inf

    def _total(self) -> float:
        return sum(self._workers) or cpu() - self._measuring

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})
        self._workers.append(output.get("cpu", 0.0))
        self._units.extend(output.get("units", ()))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        total = self._total()
        terminalreporter.section(f"CPU seconds: {total:.0f}")
        if self._units:
            imports = total / fmean(self._units)
            over = "ERROR: more than" if imports > self._budget else "at most"
            terminalreporter.write_line(
                f"as much as {imports:.0f} imports of Prefect ({over} {self._budget})"
            )
        for file, spent in sorted(self._files.items(), key=lambda each: -each[1])[:MOST]:
            terminalreporter.write_line(f"{spent:7.1f}  {file}")


def _table() -> dict[str, float]:
    costs: dict[str, float] = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    return costs


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
