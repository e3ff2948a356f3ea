"""Worktrees of runs, compared with `git worktree add`, and what they add to a run.

There is a small repository, and a large one of 200 MB in 20,000 files. Daybook's worktree and one
of git alternate; each pair gives a ratio. Daybook's time includes the fetch of the branch, which
has not changed. The runs have an agent that writes one file; those without a repository alternate
with those in the small and in the large one. A run with a repository also collects its change.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.report import header, progress, row, short
from benchmarks.testbed import Testbed
from daybook.agents import documents
from daybook.api import jobs, runs
from daybook.features.repositories import worktrees
from daybook.features.repositories.store import Store
from daybook.features.repositories.worktrees import Author, Worktree
from daybook.policies.repositories import Upstream

SIZES = {"small": (50, 1_000), "large": (20_000, 10_000)}
"""The number of files, and their length in bytes."""
MAX_RATIO = 2.0
_AUTHOR = Author("agent", "agent@daybook.invalid", datetime(2026, 1, 1, tzinfo=UTC))
_AGENT = ["sh", "-c", "cat > /dev/null; echo more > added.txt; echo Done."]


@dataclass
class Result:
    """Seconds, by the name of the repository: ``none`` for runs without one."""

    first_fetch: dict[str, float] = field(default_factory=dict)
    daybook: dict[str, list[float]] = field(default_factory=lambda: {each: [] for each in SIZES})
    git: dict[str, list[float]] = field(default_factory=lambda: {each: [] for each in SIZES})
    runs: dict[str, list[float]] = field(
        default_factory=lambda: {each: [] for each in ("none", *SIZES)}
    )

    def ratio(self, name: str) -> float:
        """Return the median ratio of the pairs."""
        pairs = zip(self.daybook[name], self.git[name], strict=True)
        return median(ours / theirs for ours, theirs in pairs)


def _git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def _create(folder: Path, count: int, length: int) -> None:
    """Create a repository whose files have lines of random words."""
    chosen = random.Random(1)
    for number in range(count):
        path = folder / f"part{number // 400}" / f"file{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(chosen.randbytes(30).hex() for _ in range(length // 61)))
    _git(folder, "init", "--quiet", "-b", "main")
    _git(folder, "-c", "core.compression=1", "add", "-A")
    _git(folder, "commit", "--quiet", "-m", "first")
    _git(folder, "-c", "pack.window=0", "repack", "-adq")


async def measure(bed: Testbed, count: int) -> Result:
    """Measure ``count`` pairs of worktrees, and ``count`` runs of each kind."""
    root, result = Path(bed.home.path).parent / "projects", Result()
    for name, (files, length) in SIZES.items():
        progress(f"create the {name} repository")
        (root / name).mkdir(parents=True)
        _create(root / name, files, length)
        store = Store(Upstream.parse(str(root / name)))
        start = time.monotonic()
        await store.fetch("main")
        result.first_fetch[name] = time.monotonic() - start
        for number in range(count):
            result.daybook[name].append(await _by_daybook(store, f"{name}{number}"))
            result.git[name].append(_by_git(root / name, root / "of-git"))
            progress(f"{name}: pair {number + 1} of {count}, ratio {result.ratio(name):.2f}")
    await _measure_runs(bed, root, count, result)
    return result


async def _by_daybook(store: Store, run_id: str) -> float:
    start = time.monotonic()
    made = Worktree(store, run_id, await store.fetch("main"), f"daybook/bench/{run_id}")
    await made.create(_AUTHOR)
    seconds = time.monotonic() - start
    worktrees.remove_folder(made.folder)
    return seconds


def _by_git(repository: Path, folder: Path) -> float:
    start = time.monotonic()
    _git(repository, "worktree", "add", "--quiet", "--detach", str(folder))
    seconds = time.monotonic() - start
    _git(repository, "worktree", "remove", "--force", str(folder))
    return seconds


async def _measure_runs(bed: Testbed, root: Path, count: int, result: Result) -> None:
    await bed.prepare()
    await documents.add(bed.client, "coder", "command", {"command": _AGENT})
    os.environ["DAYBOOK_ALLOWED_WORK_DIRS"] = str(root)
    for name in result.runs:
        fields = {"name": f"run-{name}", "prompt": "Go", "agent": "coder", "on_demand": True}
        if name != "none":
            fields |= {"repo": str(root / name), "ref": "main"}
        await jobs.add({**fields, "session": "new"})
    command, environment = bed.worker_command("worktrees", 1)
    environment |= {"DAYBOOK_ALLOWED_WORK_DIRS": str(root)}
    async with bed.worker(command, environment) as worker:
        for number in range(count + 1):
            for name, seconds in result.runs.items():
                await worker.wait_idle()
                start = time.monotonic()
                run = await runs.run(f"run-{name}", wait=True)
                if run.status != "succeeded":
                    raise RuntimeError(f"{run.status}: {run.reason} {run.error}")
                if number:  # the first ones do imports
                    seconds.append(time.monotonic() - start)
            progress(f"runs {number} of {count}")


def table(result: Result) -> str:
    rows = []
    for name, (files, length) in SIZES.items():
        ours, theirs = median(result.daybook[name]), median(result.git[name])
        size = f"{files:,} files, {files * length / 1e6:.3g} MB"
        cells = f"{short(ours)} s", f"{short(theirs)} s", f"{result.ratio(name):.2f} ×"
        rows.append(row(f"a worktree: {size}", *cells, f"≤ {MAX_RATIO:g} ×" * (name == "large")))
        fetched = f"{short(result.first_fetch[name])} s"
        rows.append(row("… the first fetch of the repository", fetched, "", "", ""))
    none = median(result.runs["none"])
    rows.append(row("a run without a repository", f"{short(none)} s", "", "", ""))
    for name in SIZES:
        seconds = median(result.runs[name])
        cells = f"{short(seconds)} s", "", f"+ {short(seconds - none)} s"
        rows.append(row(f"… in the {name} one, with a change", *cells, ""))
    return "\n".join([header("", "Daybook", "`git worktree add`", "ratio", "target"), *rows])


def missed(result: Result) -> list[str]:
    ratio = result.ratio("large")
    return [f"worktrees: {ratio:.2f} × of git"] if ratio > MAX_RATIO else []
