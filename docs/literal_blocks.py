"""Griffe extension that hides the `::` before a code block, which Markdown would show."""

from __future__ import annotations

import re
from typing import Any

import griffe


class LiteralBlocks(griffe.Extension):
    """Replaces `::` before an indented block with `:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a loaded object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"::(?=\n\n)", ":", obj.docstring.value)
