"""The tables of skills: skills, and their files."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary
from sqlmodel import Field

from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table


class SkillRow(Table, table=True):
    """A skill. ``digest`` is the SHA-256 digest of its files (`folder.Skill.digest`)."""

    __tablename__ = "skills_skills"

    name: str = Field(primary_key=True)
    description: str
    # The folder or the address from which it was added.
    source: str
    digest: str
    added_at: datetime = Field(sa_type=Instant)


class SkillFileRow(Table, table=True):
    """A file of a skill. ``path`` is relative to the skill's folder, with `/`."""

    __tablename__ = "skills_files"

    skill: str = Field(foreign_key="skills_skills.name", primary_key=True)
    path: str = Field(primary_key=True)
    size: int
    # Must stay last: SQLite is slow to read columns that follow a long one.
    content: bytes = Field(sa_type=LargeBinary, repr=False)
