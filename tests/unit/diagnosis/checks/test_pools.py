"""What the runs of a work pool on other machines need of the addresses of this one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.diagnosis.checks import pools


@pytest.mark.parametrize(
    ("ledger", "severity"),
    [
        ("postgresql:///dd", "warning"),
        ("postgresql:///dd?host=/run/postgresql", "warning"),
        ("postgresql:///dd?host=127.0.0.1:5432&host=db:5432", "warning"),
        ("postgresql:///dd?host=db-1:5432&host=db-2:5432", "ok"),
        ("postgresql://db/dd", "ok"),
    ],
)
def test_a_ledger_that_only_this_machine_reaches_is_reported(
    monkeypatch: pytest.MonkeyPatch, ledger: str, severity: str
) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", ledger)
    client: Any = SimpleNamespace(api_url="http://prefect.example/api")
    pool = cast("Any", SimpleNamespace(type="docker"))
    found = {each.check: each.severity for each in pools._requirements(client, pool)}
    assert found["ledger address"] == severity
    assert found["prefect address"] == "ok"
