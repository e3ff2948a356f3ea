from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with ``source`` as module, and its tools."""

    def installed(source: str, **tools: str) -> None:
        name = f"toolbox_{uuid4().hex[:8]}"
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (tmp_path / f"{name}.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{tool} = {name}:{place}" for tool, place in tools.items()]
        (about / "entry_points.txt").write_text("[daybook.tools]\n" + "\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path)

    return installed
