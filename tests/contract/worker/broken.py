"""Launcher program whose import fails."""

raise ImportError("it cannot be imported")
