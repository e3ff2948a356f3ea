"""The check for registered listeners and plugins that cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook import registry
from daybook.diagnosis.checks.installation import plugins
from daybook.finding import Severity
from daybook.home import Home


def test_a_listener_or_plugin_that_cannot_be_imported_is_reported_with_its_reason(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "site/doctored-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: doctored\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[daybook.listeners]\nlost = not_there_at_all:heard\n")
    (tmp_path / "site/doctored_good.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with registry.isolated():
        assert [each.message for each in plugins()] == [
            'the listener "lost" cannot be called: cannot load not_there_at_all:heard: '
            "ModuleNotFoundError: No module named 'not_there_at_all'"
        ]
    (about / "entry_points.txt").unlink()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("DAYBOOK_PLUGINS", "doctored_good, doctored_missing")
    with registry.isolated():
        [found] = plugins()
    assert found.message == (
        "the plugin doctored_missing cannot be imported: "
        "ModuleNotFoundError: No module named 'doctored_missing'"
    )
    assert found.severity is Severity.PROBLEM and "PYTHONPATH" in found.fix
