"""The example, the openssl commands and the pauses of docs/guides/callbacks.md are correct."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from daybook.delivery.destination_settings import RETRY_DELAYS
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "guides" / "callbacks.md").read_text()


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_openssl_commands_give_the_signature_of_the_example(tmp_path: Path) -> None:
    head, body = _block("http").strip().split("\n\n")
    headers = dict(re.findall(r"^([\w-]+): (.+)$", head, re.MULTILINE))
    secret = re.search(r"signed with\n`(whsec_\S+)`", TEXT)
    assert secret is not None
    (tmp_path / "body.json").write_bytes(body.encode())
    printed = subprocess.run(
        ["sh", "-euc", _block("sh")],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "SECRET": secret[1],
            "WEBHOOK_ID": headers["webhook-id"],
            "WEBHOOK_TIMESTAMP": headers["webhook-timestamp"],
        },
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert headers["webhook-signature"] == f"v1,{printed.strip()}"


def test_the_fields_of_the_example_are_in_the_table() -> None:
    body = json.loads(_block("http").strip().split("\n\n")[1])
    table = TEXT.partition("| field | is |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line[:60])}
    assert body.keys() <= named
    assert {"version", "event", "corrects", "id", "output", "retry_of"} <= body.keys()


def test_the_retry_delays_are_those_of_the_text() -> None:
    match = re.search(r"follow after (.*?), up to a", TEXT, re.DOTALL)
    assert match is not None
    units = {"s": 1, "min": 60, "h": 3600}
    pauses = [int(n) * units[unit] for n, unit in re.findall(r"(\d+) (s|min|h)", match[1])]
    assert pauses == [pause.total_seconds() for pause in RETRY_DELAYS]
