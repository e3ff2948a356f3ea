"""The headers of a callback, with a signature that openssl verifies."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.delivery import callbacks
from tests.unit.delivery.rows import NEW, NOON, OLD, callback, signature


def test_a_signature_equals_the_one_of_openssl() -> None:
    row = callback()
    body = row.body.encode()
    made = callbacks.headers(row, body, [NEW], None, NOON)
    assert made["webhook-id"] == row.id
    assert made["webhook-timestamp"] == "1768478400"
    assert made["webhook-signature"] == signature(NEW, row.id, "1768478400", body)


def test_during_a_rotation_both_secrets_sign() -> None:
    row = callback()
    body = row.body.encode()
    made = callbacks.headers(row, body, [NEW, OLD], None, NOON)
    stamp = made["webhook-timestamp"]
    both = [signature(each, row.id, stamp, body) for each in (NEW, OLD)]
    assert made["webhook-signature"].split(" ") == both


def test_each_try_has_the_same_id_and_its_own_timestamp() -> None:
    row = callback()
    first = callbacks.headers(row, b"{}", [NEW], None, NOON)
    second = callbacks.headers(row, b"{}", [NEW], None, NOON + timedelta(seconds=30.9))
    assert first["webhook-id"] == second["webhook-id"] == first["Idempotency-Key"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 30
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.floor("C", "A callback has X-CronRun-ID and X-CronEvent")
@pytest.mark.floor("C", "A callback has Authorization: Bearer if there is a token")
def test_a_callback_has_headers_for_event_run_token_and_content_type() -> None:
    made = callbacks.headers(callback(event="failed"), b"{}", [NEW], "t0ken", NOON)
    assert made["X-CronEvent"] == "failed"
    assert made["X-CronRun-ID"] == "r1"
    assert made["Authorization"] == "Bearer t0ken"
    assert made["Content-Type"] == "application/json"


def test_without_a_run_or_token_their_headers_are_absent() -> None:
    made = callbacks.headers(callback(run_id=None), b"{}", [NEW], None, NOON)
    assert not {"X-CronRun-ID", "Authorization"} & made.keys()
