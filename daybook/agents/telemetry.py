"""Export of runs and their model requests as OpenTelemetry spans, if an OTLP endpoint is set.

::

    run_span ──► one span for each attempt of a run
                   └─ the spans of pydantic-ai: the agent, its requests, its tool calls
    flush    ──► OTLP over HTTP, within `MAX_FLUSH_SECONDS`

Only OpenTelemetry's own variables configure the export. If they set no endpoint, this module does
not import OpenTelemetry. The module has its own tracer provider, because the global provider also
gets Prefect's spans, and the program that set it may export them. A background thread exports the
spans in batches. So if the endpoint does not respond, it delays a run by at most
`MAX_FLUSH_SECONDS`. Spans that it has not accepted by then are lost.

The spans contain the texts of prompts, replies and tools only if the operator sets the variable
`CONTENT_VARIABLE`. No part of a span contains the tokens of claims, or a secret that this
process has got (`redaction.remember`): a tool, a model or an error may repeat it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from daybook.redaction import hide_in, redact_remembered, redact_tokens

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from pydantic_ai.models.instrumented import InstrumentationSettings

log = logging.getLogger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP_PROTOCOL = "http/protobuf"
CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
WITH_CONTENT = ("true", "1", "span_only", "span_and_event")
"""Values of `CONTENT_VARIABLE`, in lower or upper case, with which the spans contain texts."""

MAX_FLUSH_SECONDS = 1.0
"""Maximum time that a run waits for the endpoint at its end."""

_run_id: ContextVar[str] = ContextVar("run_id", default="")


@contextmanager
def run_span(
    run_id: str, name: str, attributes: Mapping[str, str | int]
) -> Iterator[Callable[[str], None]]:
    """Export the block as the span of an attempt. Yield a function that sets the run's status.

    The trace id is the run's id, which has 32 hexadecimal digits. So all attempts are in one trace.
    """
    provider = _provider()
    if provider is None:
        yield lambda status: None
        return
    token = _run_id.set(run_id)
    try:
        with provider.get_tracer("daybook").start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            yield functools.partial(span.set_attribute, "daybook.run.status")
    finally:
        _run_id.reset(token)


def instrumentation() -> InstrumentationSettings | None:
    """Return the settings with which pydantic-ai exports its spans; None without an endpoint."""
    provider = _provider()
    if provider is None:
        return None
    from pydantic_ai.models.instrumented import InstrumentationSettings

    has_content = os.environ.get(CONTENT_VARIABLE, "").strip().lower() in WITH_CONTENT
    return InstrumentationSettings(
        tracer_provider=provider,
        include_content=has_content,
        include_binary_content=False,
        include_model_request_parameters=has_content,
    )


async def flush() -> None:
    """Export the spans that have ended. Wait at most `MAX_FLUSH_SECONDS`."""
    provider = _provider()
    if provider is None:
        return
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def export() -> None:
        provider.force_flush()
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(done.set)

    # Use a daemon thread, because the event loop would wait at its end for a thread of its own
    # executor.
    threading.Thread(target=export, daemon=True).start()
    try:
        async with asyncio.timeout(MAX_FLUSH_SECONDS):
            await done.wait()
    except TimeoutError:
        log.warning(
            "the OTLP endpoint has not accepted all spans within %g s; the rest are lost",
            MAX_FLUSH_SECONDS,
            extra={"action": "spans_not_exported"},
        )


@functools.cache
def _provider() -> TracerProvider | None:
    """Return the tracer provider of this process; None if nothing is exported.

    Log a warning if an endpoint is set but the export is not possible.
    """
    variable = next((name for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return None
    protocol = next(filter(None, map(os.environ.get, PROTOCOL_VARIABLES)), HTTP_PROTOCOL)
    why = f"the protocol {protocol} is not supported; use {HTTP_PROTOCOL}"
    if protocol == HTTP_PROTOCOL:
        try:
            return _new_provider()
        except ImportError:
            why = 'the SDK is missing; install it with: pip install "prefect-daybook[otel]"'
        except Exception as error:  # a variable of OpenTelemetry has an invalid value
            why = f"{type(error).__name__}: {error}"
    log.warning(
        "%s is set, but nothing is exported: %s", variable, why, extra={"action": "no_otel"}
    )
    return None


def _new_provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Exporter(OTLPSpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return super().export([_redacted(each) for each in spans])

    class RunIds(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            run_id = _run_id.get()
            return int(run_id, 16) if run_id else super().generate_trace_id()

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "daybook"}
    provider = TracerProvider(
        resource=Resource.create(named), id_generator=RunIds(), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(Exporter()))
    return provider


def _redacted(span: ReadableSpan) -> ReadableSpan:
    """Return the span without secrets and without the tokens of claims."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Status

    why = span.status.description
    return ReadableSpan(
        name=_hide(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=hide_in(dict(span.attributes or {}), _hide),
        events=[
            Event(_hide(each.name), hide_in(dict(each.attributes or {}), _hide), each.timestamp)
            for each in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=span.status if why is None else Status(span.status.status_code, _hide(why)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _hide(text: str) -> str:
    return redact_remembered(redact_tokens(text))
