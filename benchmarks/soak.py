"""Memory, descriptors and file sizes of a running `daybook up`, over time.

::

    python -m benchmarks.soak FOLDER --minutes 360 --per-minute 20 --day-minutes 10

`up` gets a home in ``FOLDER``, and jobs that are due so often in each minute. With
``--day-minutes`` the clock of all its processes goes a day forward every so many minutes, so that
the retention, whose unit is the day, has something to delete: runs are kept for a day, and there
are nightly backups. The results are ``FOLDER/soak.csv``, with one line per `INTERVAL_SECONDS`, and
``FOLDER/soak.svg`` (``--plot`` only draws it again). A table with the first and the last values,
and the number of due times by outcome, is printed. Needs /proc (Linux).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks import report, usage
from benchmarks.shifted_clock import ShiftedClock
from daybook.clock import SYSTEM_CLOCK
from daybook.processes import proc
from daybook.timing import TIMING

INTERVAL_SECONDS = 15.0
START_TIMEOUT_SECONDS = 1200.0
WARM_UP_SECONDS = 120.0
"""Time after the start that is not part of the table's first values."""
PANELS = (("memory_mb", "memory, MB"), ("descriptors", "descriptors"), ("file_mb", "files, MB"))
"""Kinds of values: the beginning of their names, and the titles of their plots."""
WIDTH, HEIGHT, MARGIN = 900, 240, 60
LIGHT = ("#1f77b4", "#c1272d", "#2a8a2a", "#7b4fb0", "#b35900", "#8c564b", "#0b7a86")
DARK = ("#6db3e8", "#ff8a80", "#7fd07f", "#c5a3ee", "#ffb066", "#d3a498", "#63d3df")
MAX_POINTS = 150
SMALL_SHARE = 0.01
"""Share of a panel's maximum below which a line would lie on the axis."""

Sample = Mapping[str, float]


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    folder: Path = options.folder
    if options.plot:
        samples = read(folder / "soak.csv")
        (folder / "soak.svg").write_text(plot(samples))
        print(table(samples))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Measured on: {report.machine()}  ")
    print(f"Started: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}\n")
    home = (folder / "home").absolute()
    days = Days(folder.absolute(), 60 * options.day_minutes) if options.day_minutes else None
    with _up(home, folder, days.variables if days else {}) as variables:
        _add_jobs(variables, options.per_minute)
        samples = list(_record(home, folder / "soak.csv", 60 * options.minutes, days))
        (folder / "soak.svg").write_text(plot(samples))
        print(table(samples))
        _print_outcomes(home / "ledger.db")
    print(f"\nFinished: {SYSTEM_CLOCK.now():%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}")
    return 0


class Days:
    """A clock that goes a day forward every ``seconds``, and the settings of such short days."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._clock, self._seconds = ShiftedClock(folder), seconds
        self._timing = replace(TIMING, retention_interval=timedelta(seconds=seconds / 4))
        self._backups = folder / "backups"
        self._backups.mkdir()

    @property
    def variables(self) -> dict[str, str]:
        return {
            **self._clock.variables,
            **self._timing.environment(),
            "DAYBOOK_KEEP_DAYS": "1",
            "DAYBOOK_KEEP_RUNS": "10",
            "DAYBOOK_BACKUP_FOLDER": str(self._backups),
            "DAYBOOK_BACKUP_PASSPHRASE": "of a benchmark",
            "DAYBOOK_KEEP_BACKUPS": "2",
            "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": str(self._seconds / 4),
        }

    def pass_until(self, seconds: float) -> int:
        """Begin the days that begin until ``seconds`` after the start; return their number."""
        number = int(seconds // self._seconds)
        self._clock.step(timedelta(days=number) - self._clock.shift)
        return number


@contextmanager
def _up(home: Path, folder: Path, more: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Run `daybook up`; yield the environment of commands."""
    private = ("PREFECT_", "DAYBOOK_")
    kept = {name: each for name, each in os.environ.items() if not name.startswith(private)}
    variables = kept | {"DAYBOOK_HOME": str(home), "DAYBOOK_TIMEZONE": "UTC", **more}
    with (folder / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "daybook", "up", "--no-browser"]
        up = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_TIMEOUT_SECONDS
            while not _record_of_up(home).get("ready_at"):
                if up.poll() is not None or time.monotonic() >= end:
                    raise SystemExit(f"`daybook up` did not start: {folder / 'up.log'}")
                time.sleep(0.5)
            yield variables
        finally:
            up.send_signal(signal.SIGINT)
            up.wait()


def _record_of_up(home: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / "up.json").read_text()))
    except FileNotFoundError:
        return {}


def _add_jobs(variables: Mapping[str, str], per_minute: int) -> None:
    """Add jobs whose runs are spread over each minute."""
    daybook = [sys.executable, "-m", "daybook"]

    def run(*words: str) -> None:
        subprocess.run([*daybook, *words], env=dict(variables), check=True, capture_output=True)

    run("agents", "add", "nothing", "--command", "echo done")
    for number in range(per_minute):
        second = number * 60 // per_minute
        cron = f"{second} * * * * *"
        run("add", "--cron", cron, "Go", "--agent", "nothing", "--name", f"soak-{number}")


def _record(home: Path, file: Path, seconds: float, days: Days | None) -> Iterator[Sample]:
    """Yield samples for so many seconds, and write them to ``file``."""
    began, names = time.monotonic(), list[str]()
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        while (at := time.monotonic() - began) < seconds:
            day = days.pass_until(at) if days else 0
            sample = {"minutes": round(at / 60, 2), "day": day, **_sample(home)}
            if not names:
                names = list(sample)
                writer.writerow(names)
            writer.writerow([sample.get(name, "") for name in names])
            out.flush()
            yield sample
            time.sleep(INTERVAL_SECONDS)


def _sample(home: Path) -> dict[str, float]:
    found = dict[str, float]()
    record = _record_of_up(home)
    pids = {"up": record["pid"]} | {each["name"]: each["pid"] for each in record["children"]}
    if "worker" in pids:  # it may be restarting
        pids["parent of the runs"] = min(proc.child_pids(pids["worker"]), default=0)
    for name, pid in pids.items():
        found[f"memory_mb {name}"] = round(proc.memory(pid) / 1e6, 1)
        try:
            found[f"descriptors {name}"] = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue  # it has just ended
    found["memory_mb all (PSS)"] = round(usage.memory(record["pid"]) / 1e6, 1)
    for name, pattern in (
        ("ledger", "ledger.db*"),
        ("Prefect", "prefect/prefect.db*"),
        ("logs", "logs/*"),
        ("spool", "spool/*"),
        ("outputs", "runs/*/*"),
        ("backups", "../backups/*"),
    ):
        sizes = [each.stat().st_size for each in home.glob(pattern) if each.exists()]
        found[f"file_mb {name}"] = round(sum(sizes) / 1e6, 2)
    return found


def read(file: Path) -> list[Sample]:
    """Return the samples of a file that `_record` wrote."""
    with file.open(newline="") as lines:
        return [
            {name: float(value) for name, value in each.items() if value}
            for each in csv.DictReader(lines)
        ]


def table(samples: Sequence[Sample]) -> str:
    """Return a Markdown table: each value after the warm-up, halfway, at the end, and its peak."""
    warm = [each for each in samples if each["minutes"] * 60 >= WARM_UP_SECONDS] or samples
    times = [warm[0], warm[len(warm) // 2], warm[-1]]
    heads = [f"{each['minutes']:.0f} min" for each in times]
    lines = [report.header("what", *heads, "peak")]
    for name in warm[-1]:
        if name not in ("minutes", "day"):
            values = [each[name] for each in warm if name in each]
            shown = [f"{each[name]:,.6g}" if name in each else "–" for each in times]
            lines.append(report.row(name.replace("_mb", " MB,"), *shown, f"{max(values):,.6g}"))
    return "\n".join(lines)


def plot(samples: Sequence[Sample]) -> str:
    """Return an SVG with one panel for each of `PANELS`; it is readable in light and in dark."""
    shown = _thinned(samples)
    last = max(shown[-1]["minutes"], 0.1)
    parts = list[str]()
    for index, (kind, title) in enumerate(PANELS):
        top = MARGIN / 2 + index * (HEIGHT + MARGIN)
        names = [name for name in shown[-1] if name.startswith(f"{kind} ")]
        peaks = {name: max(each.get(name, 0.0) for each in shown) for name in names}
        most = max(peaks.values(), default=0) or 1.0
        small = [name for name in names if peaks[name] < SMALL_SHARE * most]
        parts.append(f'<text x="{MARGIN}" y="{top - 8:.0f}" font-weight="bold">{title}</text>')
        parts += _days(shown, last, top, has_names=index == 0)
        parts.append(
            f'<path d="M{MARGIN} {top:.0f}v{HEIGHT}h{WIDTH}" class="axis"/>'
            f'<text x="{MARGIN - 6}" y="{top + 10:.0f}" text-anchor="end">{most:,.0f}</text>'
            f'<text x="{MARGIN - 6}" y="{top + HEIGHT:.0f}" text-anchor="end">0</text>'
            f'<text x="{MARGIN + WIDTH}" y="{top + HEIGHT + 16:.0f}" text-anchor="end">'
            f"{last:.0f} minutes</text>"
        )
        for number, name in enumerate(each for each in names if each not in small):
            points = " ".join(
                f"{MARGIN + each['minutes'] / last * WIDTH:.0f},"
                f"{top + HEIGHT * (1 - each[name] / most):.1f}"
                for each in shown
                if name in each
            )
            parts.append(f'<polyline points="{points}" class="line c{number}"/>')
            parts.append(
                f'<text x="{MARGIN + WIDTH + 8}" y="{top + 14 + 16 * number:.0f}" '
                f'class="c{number}">{name.removeprefix(kind).strip()}</text>'
            )
        if small:
            words = ", ".join(name.removeprefix(kind).strip() for name in small)
            parts.append(
                f'<text x="{MARGIN}" y="{top + HEIGHT + 16:.0f}">'
                f"not shown, below {SMALL_SHARE:.0%}: {words}</text>"
            )
    xmlns = 'xmlns="http://www.w3.org/2000/svg"'
    size = f'width="{WIDTH + 4 * MARGIN}" height="{len(PANELS) * (HEIGHT + MARGIN) + MARGIN}"'
    font = 'font-family="sans-serif" font-size="12"'
    body = "\n".join(parts)
    background = '<rect width="100%" height="100%" class="page"/>'
    return f"<svg {xmlns} {size} {font}>\n{_style()}\n{background}\n{body}\n</svg>\n"


def _thinned(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Return at most `MAX_POINTS` samples; each is the maximum of those that it stands for."""
    size = -(-len(samples) // MAX_POINTS)
    groups = [samples[at : at + size] for at in range(0, len(samples), size)]
    return [
        {name: max(each[name] for each in group if name in each) for name in group[-1]}
        for group in groups
    ]


def _days(samples: Sequence[Sample], last: float, top: float, *, has_names: bool) -> Iterator[str]:
    """Yield a mark for each beginning of a day."""
    day = 0.0
    for each in samples:
        if each.get("day", 0.0) > day:
            day = each["day"]
            x = MARGIN + each["minutes"] / last * WIDTH
            yield f'<path d="M{x:.0f} {top:.0f}v{HEIGHT}" class="day"/>'
            if has_names:
                yield f'<text x="{x + 3:.0f}" y="{top - 8:.0f}">day {day + 1:.0f}</text>'


def _style() -> str:
    def colors(page: str, text: str, axis: str, lines: Sequence[str]) -> str:
        rules = [f".page{{fill:{page}}} text{{fill:{text}}}", f".axis,.day{{stroke:{axis}}}"]
        for number, color in enumerate(lines):
            rules.append(f"text.c{number}{{fill:{color}}} .line.c{number}{{stroke:{color}}}")
        return " ".join(rules)

    light, dark = colors("#fff", "#222", "#999", LIGHT), colors("#1b1d22", "#ddd", "#777", DARK)
    shared = ".axis,.line,.day{fill:none} .line{stroke-width:1.5} .day{stroke-dasharray:2 4}"
    return f"<style>{shared} {light} @media (prefers-color-scheme: dark){{{dark}}}</style>"


def _print_outcomes(ledger: Path) -> None:
    """Print the number of due times by outcome, and of those with two rows."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT status, count, occurrence FROM runs WHERE occurrence LIKE 'due:%'"
        ).fetchall()
    counts = Counter[str]()
    for status, count, _ in rows:
        counts[status] += count
    twice = len(rows) - len({each[2] for each in rows})
    shown = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
    print(f"\nDue times: {shown}; with two rows: {twice}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--per-minute", type=int, default=20)
    parser.add_argument("--day-minutes", type=float, default=0.0)
    parser.add_argument("--plot", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
