"""Operator settings: `DAYBOOK_…` variables, or `config.toml` in the home.

A variable wins over the file. `docs/reference/settings.md` is generated from the fields below.
"""

from __future__ import annotations

import base64
import os
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from daybook.errors import InvalidInput

_NAME = re.compile(r"([a-z0-9_-]{1,63}\.)*(?=[a-z0-9_-]*[a-z])[a-z0-9_-]{1,63}\.?\Z", re.IGNORECASE)

_POSTGRESQL = re.compile(
    r"postgres(?:ql(?:\+asyncpg)?)?://(?P<place>[^/?#]*/[^/?#]+)(?P<query>\?[^#]*)?\Z"
)


SIGNING_SECRET_FORMAT = "legal is whsec_ and 24 to 64 bytes in base64, as Standard Webhooks have it"
"""Format of a signing secret, for error messages; `signing_key` reads one."""


def signing_key(secret: str) -> bytes:
    """Return the key of a Standard Webhooks secret; empty if ``secret`` is not valid."""
    prefix, _, encoded = secret.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return b""
    return key if prefix == "whsec" and 24 <= len(key) <= 64 else b""


def home_path() -> Path:
    """This Daybook's data directory: `DAYBOOK_HOME`, else `~/.daybook`."""
    return Path(os.environ.get("DAYBOOK_HOME") or "~/.daybook").expanduser().absolute()


def machine_timezone() -> str:
    """The IANA name of this machine's time zone; `UTC` if it is unknown."""
    import tzlocal

    name = tzlocal.get_localzone_name()
    return name or "UTC"


def default_limits() -> dict[str, Any]:
    """The defaults in docs/guides/limits.md."""
    return {}


def default_tasks() -> dict[str, Any]:
    """The defaults in docs/guides/tasks.md."""
    return {}


class Settings(BaseSettings):
    """Settings of one home. `load` raises `InvalidInput` for an invalid value."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_", extra="ignore")

    home: Path = Field(
        default_factory=home_path,
        description="The folder that holds the ledger, the embedded Prefect and the logs.",
    )
    ledger_url: str = Field(
        default="",
        description="The ledger's address: `sqlite+aiosqlite:////path/ledger.db`, with an absolute "
        "path, or `postgresql://user@host/database`; empty means `ledger.db` in the home.",
    )
    timezone: str = Field(
        default_factory=machine_timezone,
        description="The IANA zone of jobs that name none; by default this machine's.",
    )

    max_concurrent: int = Field(
        default=4,
        ge=1,
        description="How many runs of jobs may be at work at once, on all machines together; "
        "a further one waits, and is shown as waiting.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Names, addresses and networks, comma-separated, that jobs may reach although "
        "their rule refuses them: `intranet.example.org, 10.0.0.0/8`. A cloud's metadata service "
        "is meant by its very address only.",
    )

    alert_channel: str = Field(
        default="inbox",
        min_length=1,
        description="The operator's channel: where alerts go of jobs that have none of their own.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="`whsec_…`: signs callbacks to destinations without a secret of their own. "
        "Empty: the one in the home's file `webhook-secret`, which is made when it is needed; on "
        "several machines give all of them one.",
    )

    max_light: int = Field(
        default=0,
        ge=0,
        description="How many runs of the class `light` may be at work at once, within "
        "`DAYBOOK_MAX_CONCURRENT`; 0 is as many as that.",
    )
    max_medium: int = Field(
        default=0, ge=0, description="The same for the class `medium`, which jobs have by default."
    )
    max_resource_intensive: int = Field(
        default=0, ge=0, description="The same for the class `resource-intensive`."
    )

    limits: dict[str, Any] = Field(
        default_factory=default_limits,
        description="What agents' own jobs may do: a table, `[limits]` in `config.toml`, or JSON. "
        "docs/guides/limits.md has its keys.",
    )
    tasks: dict[str, Any] = Field(
        default_factory=default_tasks,
        description="When a task that nobody claims is escalated, and where sessions are woken: a "
        "table, `[tasks]` in `config.toml`, or JSON. docs/guides/tasks.md has its keys.",
    )
    user_jobs: bool = Field(
        default=True,
        description="Whether jobs of people and agents fire; where not, only those of plugins and "
        "heartbeats do, and the others are skipped.",
    )
    plugins: str = Field(
        default="",
        description="Python modules, comma-separated, that are imported before a job runs because "
        "they register tools and listeners: `my_app.jobs`.",
    )

    web_port: int = Field(
        default=4280,
        ge=0,
        lt=2**16,
        description="Where `daybook up` has `/health` and `/metrics`, on this machine alone; where "
        "it is taken any free port, which is said. 0: nowhere. `daybook web --host` listens for "
        "other machines.",
    )

    keep_days: int = Field(
        default=90,
        ge=0,
        description="For how many days what has ended is kept: runs, conversations, and what an "
        "embedded Prefect has of them; 0 is for ever.",
    )
    keep_runs: int = Field(
        default=1000,
        ge=0,
        description="How many runs of each job are kept, the newest; 0 is all. Of conversations as "
        "many prompts with their answers.",
    )

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f'unknown zone "{value}"; legal are IANA names such as Europe/Berlin'
            ) from error
        return value

    @field_validator("ledger_url")
    @classmethod
    def _check_ledger_url(cls, value: str) -> str:
        # A relative path or an in-memory database would give each process its own ledger: a run's
        # process changes its working directory, and no other process sees its memory.
        if not value or value.startswith("sqlite+aiosqlite:////"):
            return value
        if match := _POSTGRESQL.match(value):
            query = re.sub(r"([?&])sslmode=", r"\1ssl=", match["query"] or "")  # libpq's name
            return f"postgresql+asyncpg://{match['place']}{query}"
        raise ValueError(
            "legal is an absolute path, sqlite+aiosqlite:////path/ledger.db, or a database, "
            "postgresql://user@host/database"
        )

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not signing_key(value.get_secret_value()):
            raise ValueError(f"is none; {SIGNING_SECRET_FORMAT}")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        for entry in filter(None, map(str.strip, value.split(","))):
            try:
                ip_network(entry.removeprefix("[").removesuffix("]"))
            except ValueError:
                # A host name ends in a letter: 10.0.0.1/8 and 010.0.0.1 are malformed addresses.
                if not _NAME.match(entry) or len(entry) > 253:
                    raise ValueError(
                        f'"{entry}" is no host; legal are names, addresses and networks, without '
                        "scheme, port or *, such as intranet.example.org, 10.0.0.5, 10.0.0.0/8"
                    ) from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = InitSettingsSource(settings_cls, _read_file())
        return (init_settings, env_settings, file)

    @property
    def max_of_class(self) -> dict[str, int]:
        """Limits of the classes that have one."""
        limits = {
            "light": self.max_light,
            "medium": self.max_medium,
            "resource-intensive": self.max_resource_intensive,
        }
        return {name: limit for name, limit in limits.items() if limit}

    @property
    def ledger_address(self) -> str:
        """The SQLAlchemy URL in use."""
        return self.ledger_url or f"sqlite+aiosqlite:///{self.home / 'ledger.db'}"


def config_file() -> Path:
    """Return the settings file in the home; environment variables win over it."""
    return home_path() / "config.toml"


def load(**given: Any) -> Settings:
    """Read the settings of this process.

    Raises `InvalidInput` that names the invalid variable, or the file and its problem.
    """
    try:
        return Settings(**given)
    except SettingsError as error:  # a variable that should hold JSON; do not repeat its text
        named = re.search(r'field "(\w+)"', str(error))
        raise invalid_setting(named[1] if named else "settings", "is no JSON") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = "_".join(str(part) for part in first["loc"])
        problem = str(first["msg"]).removeprefix("Value error, ")
        if key in given:
            raise InvalidInput(f"DAYBOOK_{key.upper()}", problem) from error
        raise invalid_setting(key, problem) from error


def invalid_setting(key: str, problem: str, legal: str = "") -> InvalidInput:
    """Return the error for an invalid setting: it names the variable, or the file and the key."""
    variable = f"DAYBOOK_{key.upper()}"
    if variable in os.environ:
        return InvalidInput(variable, problem, legal)
    return InvalidInput(str(config_file()), f"{key}: {problem}", legal)


def _read_file() -> dict[str, Any]:
    """Read the settings file; raises `InvalidInput` for invalid TOML and unknown keys.

    The home is not among the keys, because the file lies in it.
    """
    file = config_file()
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except NotADirectoryError:  # the home is a file: `daybook doctor` reports it
        return {}
    except OSError as error:
        raise InvalidInput(str(file), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(str(file), f"is no TOML: {error}", 'such as timezone = "UTC"') from error
    legal = sorted(Settings.model_fields.keys() - {"home"})
    if unknown := [key for key in values if key not in legal]:
        raise InvalidInput(
            str(file), f"unknown: {', '.join(unknown)}", f"legal: {', '.join(legal)}"
        )
    return values
