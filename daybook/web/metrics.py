"""The metrics in the formats of Prometheus.

`docs/operations/monitoring.md` has alert rules that use them.

To add a metric, yield it in one of the functions below, which read only the `HealthSnapshot`, or in
the function `metrics` of a feature, or, if it counts requests, in the feature's `Endpoint`. The
place of a new fact depends on its subject:

- jobs or runs: a field of `HealthSnapshot`, set in `HealthMonitor` (`diagnosis.health`), with its
  query in `runs.counts`
- the outbox: a field of `delivery.views.OutboxHealth`, set in `delivery.history.health`; `status
  --json` shows this field, too

`make docs` reads the metric from the snapshot of the tests. If the value of a metric is unknown,
the page has its name and help text, but no sample. If the ledger does not answer, the page has only
the metrics that `page` names.

A gauge shows the current state. The counters (`daybook_ended_runs_total`,
`daybook_runs_with_warnings_total`, `daybook_tokens_total`, `daybook_cost_usd_total` and
`daybook_hook_requests_total`) count from the start of the process. Totals of the ledger cannot be
counters, because retention removes runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from daybook import __version__
from daybook.diagnosis.health import HealthSnapshot
from daybook.ledger.states import LIVE, TERMINAL
from daybook.usage import COST, TOKENS
from daybook.web.endpoint import Endpoint

log = logging.getLogger(__name__)


def page(
    found: HealthSnapshot | None, accept: str, endpoints: Iterable[Endpoint] = ()
) -> tuple[bytes, str]:
    """Return the page and its content type, in the format that the header `Accept` requests.

    Without ``found``, because the ledger does not answer, the page has only `daybook_ledger_up` and
    the metrics of the ``endpoints``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(found, endpoints))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _MetricsCollector(Collector):
    def __init__(self, snapshot: HealthSnapshot | None, endpoints: Iterable[Endpoint]) -> None:
        self._snapshot, self._endpoints = snapshot, endpoints

    def collect(self) -> Iterator[Metric]:
        yield gauge("ledger_up", "Whether the ledger answers.", self._snapshot is not None)
        if self._snapshot is not None:
            yield from _info(self._snapshot)
            yield from _jobs(self._snapshot)
            yield from _runs(self._snapshot)
            yield from _keeper(self._snapshot)
            yield from _outbox(self._snapshot)
            yield from self._snapshot.of_features
        for each in self._endpoints:
            try:
                yield from list(each.metrics())
            except Exception:  # the other metrics are still useful
                log.exception("the metrics of %s failed", each.path)


def _info(snapshot: HealthSnapshot) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "daybook",
        "Version of Daybook, and the id of its ledger.",
        value={"version": __version__, "ledger": snapshot.ledger_id},
    )
    yield gauge(
        "clock_skew_seconds",
        "Seconds by which the ledger's clock is ahead of this machine's.",
        snapshot.ahead,
    )


def _jobs(snapshot: HealthSnapshot) -> Iterator[Metric]:
    enabled = {"true": snapshot.jobs[True], "false": snapshot.jobs[False]}
    yield labelled_gauge("jobs", "Jobs, by whether they are enabled.", "enabled", enabled)
    yield gauge("due_soon", "Jobs that are due within five minutes.", snapshot.due_soon)
    yield gauge(
        "late",
        "Due times that passed at least 90 s ago without a started run.",
        len(snapshot.late),
    )
    yield gauge(
        "overdue",
        "Late due times that no limit explains: an operator has to act.",
        len(snapshot.overdue),
    )
    yield labelled_gauge(
        "consecutive_failures",
        "Consecutive failures of each failing job; at most 100 jobs.",
        "job",
        snapshot.failing,
    )


def _runs(snapshot: HealthSnapshot) -> Iterator[Metric]:
    live = {str(status): snapshot.live.get(status, 0) for status in sorted(LIVE)}
    yield labelled_gauge("live_runs", "Runs that have not ended, by status.", "status", live)
    ended = CounterMetricFamily(
        "daybook_ended_runs",
        "Outcomes recorded since this process started; each missed due time counts as one.",
        labels=["status"],
    )
    for status in sorted(TERMINAL):
        ended.add_metric([status], snapshot.ended.get(status, 0))
    yield ended
    yield CounterMetricFamily(
        "daybook_runs_with_warnings",
        "Runs that succeeded although a tool call failed, since this process started.",
        value=snapshot.warned,
    )
    tokens = CounterMetricFamily(
        "daybook_tokens",
        "Tokens of the runs that ended since this process started; those of the cache are parts of "
        "the input.",
        labels=["kind"],
    )
    for name in TOKENS:
        tokens.add_metric([name.removesuffix("_tokens")], snapshot.used[name])
    yield tokens
    yield CounterMetricFamily(
        "daybook_cost_usd",
        "Known cost in US dollars of the runs that ended since this process started.",
        value=snapshot.used[COST],
    )
    day = {str(status): snapshot.ended_last_day.get(status, 0) for status in sorted(TERMINAL)}
    yield labelled_gauge("ended_runs_last_day", "Outcomes of the last 24 hours.", "status", day)


def _keeper(snapshot: HealthSnapshot) -> Iterator[Metric]:
    yield gauge("keeper_leads", "Whether a keeper leads.", snapshot.has_leader)
    yield gauge(
        "keeper_lease_age_seconds",
        "Seconds since the keeper renewed its lease: every 5 s; it expires after 15 s.",
        snapshot.renewed_ago,
    )
    yield gauge(
        "keeper_observed_age_seconds",
        "Seconds since the keeper started its last complete observation of Prefect.",
        snapshot.observed_ago,
    )


def _outbox(snapshot: HealthSnapshot) -> Iterator[Metric]:
    outbox = snapshot.outbox
    oldest = outbox.oldest_pending_at
    age = 0.0 if oldest is None else (snapshot.at - oldest).total_seconds()
    yield gauge("outbox_pending", "Callbacks and messages not sent yet.", outbox.pending)
    yield gauge(
        "outbox_oldest_seconds",
        "Seconds since the oldest pending callback or message is due; 0 if none is.",
        max(0.0, age),
    )
    yield gauge("outbox_failed", "Callbacks and messages that failed permanently.", outbox.failed)
    yield gauge(
        "outbox_queues_paused",
        "Destination queues that are paused after repeated failures.",
        len(outbox.paused),
    )
    yield gauge("inbox_unread_alerts", "Unread alerts.", outbox.unread_alerts)


def gauge(name: str, help_text: str, value: float | timedelta | None) -> Metric:
    """Return a gauge. If the value is None, it is unknown, and the gauge has no sample."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return GaugeMetricFamily(f"daybook_{name}", help_text, value=value)


def labelled_gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge with a sample for each value of the ``label``."""
    family = GaugeMetricFamily(f"daybook_{name}", help_text, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family
