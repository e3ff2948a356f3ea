"""Ledgers of released versions: for each version and database, a dump in SQL.

`python -m tests.migrations.released VERSION` writes the dumps of this version before its release.
Released dumps never change.
"""
