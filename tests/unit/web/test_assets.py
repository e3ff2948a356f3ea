"""The vendored program of the pages."""

from __future__ import annotations

import hashlib

from daybook.web.pages import assets

HTMX = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"
"""SHA-256 of `dist/htmx.min.js` in the npm package `htmx.org` 4.0.1."""


def test_htmx_is_the_published_file_and_has_its_licence() -> None:
    program = (assets.FOLDER / "htmx.min.js").read_bytes()
    assert hashlib.sha256(program).hexdigest() == HTMX
    assert "Zero-Clause BSD" in (assets.FOLDER / "htmx.LICENSE.txt").read_text()


def test_the_address_of_a_file_changes_with_it() -> None:
    assert assets.url("daybook.css") != assets.url("positions.css")
    assert assets.url("daybook.css").startswith("/static/daybook.css?v=")
