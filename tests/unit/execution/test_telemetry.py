"""Spans of runs: what an OTLP endpoint receives, and what it never does."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from daybook.agents import telemetry
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentTemporary
from daybook.execution import attempt, journal
from daybook.ledger.states import Outcome, Status
from daybook.redaction import TOKEN_PREFIX
from tests.providers import KEY, Answer, Provider, provider
from tests.providers import Status as HttpStatus
from tests.receiver import Receiver, hang, serving
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import Mail

pytestmark = pytest.mark.anyio

SECRET = "the-secret-of-the-prompt"
TOKEN = f"{TOKEN_PREFIX}{'b' * 42}C"
used = partial(Answer, input_tokens=100, output_tokens=20, cached=60)


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let each test set OpenTelemetry's variables anew."""
    telemetry._provider.cache_clear()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "office")
    yield monkeypatch
    provider = telemetry._provider()
    telemetry._provider.cache_clear()
    if provider is not None:
        provider.shutdown()


async def ran(active: ActiveRun, fake_provider: Provider, *tools: Any, number: int = 1) -> Any:
    """Make an attempt whose agent answers with this provider; export its spans."""

    async def act() -> Outcome:
        asked = request(SECRET, tools=tools, journal=journal.current(), timeout=100.0)
        reply = await agent(fake_provider).answer(asked)
        return Outcome(Status.SUCCEEDED, output=reply.text, usage=reply.usage, prompt=SECRET)

    try:
        return await attempt.run_attempt(active.ledger, active.granted, number, act, SYSTEM_CLOCK)
    finally:
        await telemetry.flush()


def spans_of(receiver: Receiver) -> dict[str, Span]:
    """Return the received spans by name, and check the service."""
    found = dict[str, Span]()
    for each in receiver.requests:
        assert (each.method, each.path) == ("POST", "/v1/traces")
        for resource in ExportTraceServiceRequest.FromString(each.body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert names["service.name"] == "office"
            found |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    return found


def attributes(span: Span) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value")))
        for each in span.attributes
    }


def script(secret: str = SECRET) -> list[Any]:
    return [used("", tool="mail", arguments={"text": secret}), used(secret)]


async def test_a_run_is_one_trace_with_its_requests_and_calls_and_without_their_texts(
    active: ActiveRun, variables: pytest.MonkeyPatch
) -> None:
    async with serving() as receiver:
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        with provider() as fake_provider:
            fake_provider.script = script()
            await ran(active, fake_provider, Mail().tool)
        bodies = b"".join(each.body for each in receiver.requests)
        spans = spans_of(receiver)
    run = spans["run agent-prompt"]
    assert run.trace_id.hex() == active.granted.run_id
    assert {each.trace_id for each in spans.values()} == {run.trace_id}
    shown = attributes(run)
    assert shown["daybook.run.id"] == active.granted.run_id
    assert (shown["daybook.run.attempt"], shown["daybook.run.status"]) == (1, "succeeded")
    assert shown["daybook.run.due"] == active.granted.due.isoformat()
    by_id = {each.span_id: each for each in spans.values()}
    (asked,) = [each for name, each in spans.items() if name.startswith("invoke_agent")]
    assert by_id[asked.parent_span_id] is run
    chat = attributes(spans["chat gpt-6-luna"])
    assert chat["gen_ai.usage.input_tokens"] == 100
    assert chat["gen_ai.usage.output_tokens"] == 20
    assert chat["gen_ai.usage.cache_read.input_tokens"] == 60
    called = attributes(spans["execute_tool mail"])
    assert called["gen_ai.tool.name"] == "mail"
    assert SECRET.encode() not in bodies


async def test_an_attempt_that_waits_for_a_person_has_not_failed(
    active: ActiveRun, variables: pytest.MonkeyPatch
) -> None:
    async with serving() as receiver:
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        with provider() as fake_provider:
            fake_provider.script = script()
            await ran(active, fake_provider, replace(Mail().tool, needs_approval=lambda: True))
        assert attributes(spans_of(receiver)["run agent-prompt"])["daybook.run.status"] == "waiting"


async def test_errors_are_exported_without_their_texts(
    active: ActiveRun, variables: pytest.MonkeyPatch
) -> None:
    async def fails(_: dict[str, Any]) -> str:
        raise AgentTemporary(f"cannot send {SECRET}")

    mail = Mail().tool
    mail = type(mail)(mail.name, mail.description, mail.schema, fails)
    async with serving() as receiver:
        variables.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{receiver.address}/v1/traces")
        with provider() as fake_provider:
            fake_provider.script = [script()[0], HttpStatus(400, f"You said {SECRET}")]
            await ran(active, fake_provider, mail)
        assert attributes(spans_of(receiver)["run agent-prompt"])["daybook.run.status"] == "failed"
        assert SECRET.encode() not in b"".join(each.body for each in receiver.requests)


async def test_texts_are_exported_if_the_operator_asks_for_it_but_no_token_of_a_claim(
    active: ActiveRun, variables: pytest.MonkeyPatch
) -> None:
    async with serving() as receiver:
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        variables.setenv(telemetry.CONTENT_VARIABLE, "SPAN_ONLY")
        with provider() as fake_provider:
            fake_provider.script = script(f"{SECRET} {TOKEN}")
            await ran(active, fake_provider, Mail().tool)
        bodies = b"".join(each.body for each in receiver.requests)
        called = attributes(spans_of(receiver)["execute_tool mail"])
    assert SECRET in str(called)
    assert f"{TOKEN_PREFIX}…".encode() in bodies
    assert TOKEN.encode() not in bodies


@pytest.mark.parametrize(
    "last", [used(f"It is {KEY}."), HttpStatus(400, f"You sent {KEY}"), used(KEY, tool=f"a{KEY}")]
)
async def test_a_secret_that_a_model_tool_or_error_repeats_is_in_no_part_of_a_span(
    active: ActiveRun, variables: pytest.MonkeyPatch, last: Any
) -> None:
    async def fails(_: dict[str, Any]) -> str:
        raise AgentTemporary(f"cannot use {KEY}")

    mail = replace(Mail().tool, call=fails, description=f"Sends with {KEY}.")
    async with serving() as receiver:
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        variables.setenv(telemetry.CONTENT_VARIABLE, "true")
        with provider() as fake_provider:
            fake_provider.script = [used("", tool="mail", arguments={"text": KEY}), last]
            await ran(active, fake_provider, mail)
        bodies = b"".join(each.body for each in receiver.requests)
    assert b"[key]" in bodies
    assert KEY.encode() not in bodies


@pytest.mark.parametrize("answers", [False, True])
async def test_an_endpoint_that_is_down_or_silent_delays_a_run_by_a_second_at_most(
    active: ActiveRun,
    variables: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answers: bool,
) -> None:
    variables.setattr(telemetry, "MAX_FLUSH_SECONDS", 0.1)
    variables.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # so that the thread ends soon
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with serving() as receiver:
            receiver.steps = [hang]
            variables.setenv(
                "OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address if answers else address
            )
            with provider() as fake_provider:
                fake_provider.script = [Answer("Done.")]
                outcome = await ran(active, fake_provider)
                loop = asyncio.get_running_loop()
                begin = loop.time()
                await telemetry.flush()
                assert loop.time() - begin < 0.6
    assert outcome.output == "Done."
    assert (await active.row()).status == "succeeded"
    if answers:
        assert "has not accepted all spans within" in caplog.text


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc is not supported; use http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "ValueError"),
        ({}, 'pip install "prefect-daybook[otel]"'),
    ],
)
async def test_a_run_works_without_an_exporter_and_one_line_says_why(
    active: ActiveRun,
    variables: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    given: dict[str, str],
    why: str,
) -> None:
    variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in given.items():
        variables.setenv(name, value)
    if not given:
        missing = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
        variables.setitem(sys.modules, missing, None)
    with provider() as fake_provider:
        fake_provider.script = [Answer("Done.")]
        assert (await ran(active, fake_provider)).output == "Done."
    lines = [each for each in caplog.records if getattr(each, "action", "") == "no_otel"]
    assert len(lines) == 1
    assert lines[0].levelno == logging.WARNING
    assert why in lines[0].getMessage()


async def test_nothing_is_exported_without_an_endpoint(variables: pytest.MonkeyPatch) -> None:
    for name in telemetry.ENDPOINT_VARIABLES:
        variables.setenv(name, "")
    assert telemetry.instrumentation() is None
    with telemetry.run_span("0" * 32, "run", {}) as ended:
        ended("succeeded")
    await telemetry.flush()
