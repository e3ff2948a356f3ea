"""The settings of backups."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, field_validator

from daybook import settings
from daybook.markers import Marker


class BackupSettings(BaseModel):
    """The settings of backups."""

    backup_folder: Annotated[str, Marker(folder="made")] = Field(
        default="",
        description="Folder for nightly backups of the leading keeper's home: an absolute path, or "
        "one that begins with ~, best on another disk. Empty: no nightly backups. Requires "
        "`DAYBOOK_BACKUP_PASSPHRASE`.",
    )
    backup_passphrase: SecretStr = Field(
        default=SecretStr(""),
        description="Passphrase of backups, at least 8 characters. It is needed for a restore, so "
        "keep a copy elsewhere.",
    )
    keep_backups: int = Field(
        default=14, ge=1, description="Number of newest nightly backups to keep."
    )

    @field_validator("backup_folder")
    @classmethod
    def _check_backup_folder(cls, value: str) -> str:
        if value and not value.startswith(("/", "~")):
            raise ValueError(
                f'"{value}" is relative; use an absolute path, or one that begins with ~'
            )
        return value


def load() -> BackupSettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(BackupSettings)
