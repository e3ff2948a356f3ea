"""The headers of a callback; its signature is checked by openssl."""

from __future__ import annotations

from datetime import timedelta

from daybook.delivery import callbacks
from tests.unit.delivery.rows import NEW, NOON, OLD, callback, signature


def test_a_signature_is_what_openssl_makes_of_the_same() -> None:
    row = callback()
    body = row.body.encode()
    made = callbacks.headers(row, body, [NEW], None, NOON)
    assert made["webhook-id"] == row.id
    assert made["webhook-timestamp"] == "1768478400"
    assert made["webhook-signature"] == signature(NEW, row.id, "1768478400", body)


def test_while_a_rotation_lasts_both_secrets_sign() -> None:
    row = callback()
    body = row.body.encode()
    made = callbacks.headers(row, body, [NEW, OLD], None, NOON)
    stamp = made["webhook-timestamp"]
    both = [signature(each, row.id, stamp, body) for each in (NEW, OLD)]
    assert made["webhook-signature"].split(" ") == both


def test_the_id_stays_and_the_time_is_that_of_the_try() -> None:
    row = callback()
    first = callbacks.headers(row, b"{}", [NEW], None, NOON)
    second = callbacks.headers(row, b"{}", [NEW], None, NOON + timedelta(seconds=30.9))
    assert first["webhook-id"] == second["webhook-id"] == first["Idempotency-Key"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 30
    assert first["webhook-signature"] != second["webhook-signature"]


def test_the_other_headers() -> None:
    made = callbacks.headers(callback(event="failed"), b"{}", [NEW], "t0ken", NOON)
    assert made["X-CronEvent"] == "failed"
    assert made["X-CronRun-ID"] == "r1"
    assert made["Authorization"] == "Bearer t0ken"
    assert made["Content-Type"] == "application/json"


def test_what_is_not_there_has_no_header() -> None:
    made = callbacks.headers(callback(run_id=None), b"{}", [NEW], None, NOON)
    assert not {"X-CronRun-ID", "Authorization"} & made.keys()
