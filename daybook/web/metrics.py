"""The metrics in the formats of Prometheus.

`docs/operations/monitoring.md` has alert rules that use them.

A gauge is the current state. The only counter, `daybook_ended_runs_total`, counts from the start of
the process. The totals in the ledger cannot be a counter, because retention removes runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from daybook import __version__
from daybook.ledger.states import LIVE, TERMINAL
from daybook.operations.health import HealthSnapshot


def page(found: HealthSnapshot | None, accept: str) -> tuple[bytes, str]:
    """Return the page in the format that ``accept`` requests, and its content type.

    If ``found`` is None, the ledger does not answer, and the page contains only that.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(found))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _MetricsCollector(Collector):
    def __init__(self, snapshot: HealthSnapshot | None) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield _gauge("ledger_up", "Whether the ledger answers.", self._snapshot is not None)
        if self._snapshot is not None:
            yield from _info(self._snapshot)
            yield from _jobs(self._snapshot)
            yield from _runs(self._snapshot)
            yield from _keeper(self._snapshot)
            yield from _outbox(self._snapshot)
            yield from _tasks(self._snapshot)


def _info(snapshot: HealthSnapshot) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "daybook",
        "This Daybook, and which ledger it keeps.",
        value={"version": __version__, "ledger": snapshot.ledger_id},
    )
    yield _gauge(
        "clock_skew_seconds",
        "How far the ledger's clock is ahead of this machine's.",
        snapshot.ahead.total_seconds(),
    )


def _jobs(snapshot: HealthSnapshot) -> Iterator[Metric]:
    enabled = {"true": snapshot.jobs[True], "false": snapshot.jobs[False]}
    yield _labelled_gauge("jobs", "Jobs, by whether they are enabled.", "enabled", enabled)
    yield _gauge(
        "due_soon", "Jobs that are due within five minutes by their schedules.", snapshot.due_soon
    )
    yield _gauge(
        "late",
        "Due times that passed a minute and a half ago, and nothing began.",
        len(snapshot.late),
    )
    yield _gauge(
        "overdue",
        "Of those that are late, the ones that no limit keeps: somebody has to see to them.",
        len(snapshot.overdue),
    )
    yield _labelled_gauge(
        "consecutive_failures",
        "How often in a row each job that fails has failed; at most 100 jobs.",
        "job",
        snapshot.failing,
    )


def _runs(snapshot: HealthSnapshot) -> Iterator[Metric]:
    live = {str(status): snapshot.live.get(status, 0) for status in sorted(LIVE)}
    yield _labelled_gauge("live_runs", "Runs that have not ended, by status.", "status", live)
    ended = CounterMetricFamily(
        "daybook_ended_runs",
        "Outcomes written since this process began; a missed due time is one.",
        labels=["status"],
    )
    for status in sorted(TERMINAL):
        ended.add_metric([status], snapshot.ended.get(status, 0))
    yield ended
    day = {str(status): snapshot.ended_last_day.get(status, 0) for status in sorted(TERMINAL)}
    yield _labelled_gauge("ended_runs_last_day", "Outcomes of the last 24 hours.", "status", day)


def _keeper(snapshot: HealthSnapshot) -> Iterator[Metric]:
    yield _gauge("keeper_leads", "Whether a keeper leads.", snapshot.has_leader)
    if (renewed_ago := snapshot.renewed_ago) is not None:
        yield _gauge(
            "keeper_lease_age_seconds",
            "Time since the keeper's lease was renewed; it is after 10 s, and runs out after 30 s.",
            renewed_ago.total_seconds(),
        )
    if (observed_ago := snapshot.observed_ago) is not None:
        yield _gauge(
            "keeper_observed_age_seconds",
            "Time since the keeper began its last complete look at Prefect.",
            observed_ago.total_seconds(),
        )


def _outbox(snapshot: HealthSnapshot) -> Iterator[Metric]:
    outbox = snapshot.outbox
    oldest = outbox["oldest_pending_at"]
    age = 0.0 if oldest is None else (snapshot.at - oldest).total_seconds()
    yield _gauge("outbox_pending", "Callbacks and messages that wait.", outbox["pending"])
    yield _gauge("outbox_oldest_seconds", "How long the oldest of them has waited.", max(0.0, age))
    yield _gauge("outbox_failed", "Callbacks and messages that were given up.", outbox["failed"])
    yield _gauge(
        "outbox_lanes_paused",
        "Destinations that failed often in a row and are left alone for a while.",
        len(outbox["paused"]),
    )
    yield _gauge("inbox_unread_alerts", "Alerts that nobody has read.", outbox["unread_alerts"])


def _tasks(snapshot: HealthSnapshot) -> Iterator[Metric]:
    tasks = snapshot.tasks
    age = 0.0 if tasks.oldest is None else (snapshot.at - tasks.oldest).total_seconds()
    live = {str(status): count for status, count in tasks.live.items()}
    yield _labelled_gauge(
        "tasks_live", "Runs of tasks that have not ended, by status.", "status", live
    )
    yield _gauge("tasks_oldest_queued_seconds", "How long the oldest has waited.", max(0.0, age))
    yield _gauge("tasks_starving", "Queued runs that starve: nobody claims them.", tasks.starving)
    yield _gauge("tasks_attention", "Runs of tasks that somebody should look at.", tasks.attention)
    yield _labelled_gauge(
        "tasks_sessions",
        "Sessions that are there, by whether they could claim now.",
        "state",
        {"free": tasks.free, "busy": tasks.busy},
    )
    yield _gauge("tasks_paused", "Whether the task scheduler is paused.", tasks.switch.paused)
    day = {str(status): count for status, count in tasks.ended_last_day.items()}
    yield _labelled_gauge(
        "tasks_ended_last_day", "Runs of tasks that ended in the last 24 hours.", "status", day
    )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"daybook_{name}", help_text, value=float(value))


def _labelled_gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"daybook_{name}", help_text, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family
