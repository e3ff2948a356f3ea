"""Daybook schedules the work of AI agents on Prefect and keeps the book of every due time."""

__version__ = "0.1.0"
