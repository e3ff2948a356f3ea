"""A program that cannot be imported."""

raise ImportError("it cannot be imported")
