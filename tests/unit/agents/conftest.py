from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers import Provider, provider


@pytest.fixture
def here() -> Iterator[Provider]:
    """A provider of models on this machine."""
    with provider() as here:
        yield here
