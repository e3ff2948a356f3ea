from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers import Provider, provider


@pytest.fixture
def fake_provider() -> Iterator[Provider]:
    """Start a local model provider."""
    with provider() as fake_provider:
        yield fake_provider
