"""Fixtures: the real HTTP server, as in the tests of `daybook.web`."""

from tests.unit.web.conftest import pages, times_in_utc

__all__ = ["pages", "times_in_utc"]
