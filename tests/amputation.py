"""Copies of Daybook from which features are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from daybook.feature import Feature

REPOSITORY = Path(__file__).parents[1]
_ENTRY_POINTS = ("flows", "blocks", "deployments", "prefect.yaml", "pyproject.toml")


def copied_without(features: Iterable[Feature], folder: Path) -> Path:
    """Copy the package and the Prefect entry points into ``folder``, without these features."""
    unfinished = shutil.ignore_patterns("*.pyc.*")  # another process may be writing it
    shutil.copytree(REPOSITORY / "daybook", folder / "daybook", ignore=unfinished)
    for each in features:
        shutil.rmtree(folder.joinpath(*each.package.split(".")))
    for name in _ENTRY_POINTS:
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder
