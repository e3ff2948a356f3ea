"""Operator settings: `DAYBOOK_…` variables, or `config.toml` in the home.

A variable overrides the file. To add a setting, write a field of `Settings`, or of the class that a
feature adds; `docs/reference/settings.md` is generated from the fields. The docstring of
`runs.retention` explains how to add a retention rule.
"""

from __future__ import annotations

import os
import re
from functools import cache, lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from daybook import feature, settings_file, zone_names
from daybook.errors import DaybookError, InvalidInput
from daybook.home import Home, home_path
from daybook.markers import Marker
from daybook.signing_secrets import SIGNING_SECRET_FORMAT, signing_key

T = TypeVar("T")

_NAME = re.compile(r"([a-z0-9_-]{1,63}\.)*(?=[a-z0-9_-]*[a-z])[a-z0-9_-]{1,63}\.?\Z", re.IGNORECASE)

_POSTGRESQL = re.compile(
    r"postgres(?:ql(?:\+asyncpg)?)?://(?P<place>[^/?#]*/[^/?#]+)(?P<query>\?[^#]*)?\Z"
)

_PUBLIC_URL = re.compile(
    r"(?P<origin>https?://(?P<host>([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63})(:(?P<port>\d{1,5}))?)"
    r"(?P<path>(/(?!\.)[a-z0-9._~-]+)*)/?\Z",
    re.IGNORECASE,
)


def machine_timezone() -> str:
    """Return the IANA name of this machine's time zone; `UTC` if it is unknown."""
    import tzlocal

    return zone_names.of_machine(tzlocal.get_localzone_name())


MIN_PROCESS_MEMORY = 512
"""Minimum of the setting `max_process_memory`, in MB; some processes use half of this when idle."""
STATUS_FINDINGS = (
    *("prefect", "pool", "worker", "clock", "ledger clock", "one prefect", "ledger", "disk"),
    *("keeper", "sync", "jobs", "leases", "outbox", "settings", "leftovers", "processes"),
    *("prefect database", "late", "waiting", "approvals"),
)
"""Names of the findings of `daybook status`, without those of features."""


def default_limits() -> dict[str, Any]:
    """Return the defaults in docs/guides/limits.md."""
    return {}


def default_budget() -> dict[str, Any]:
    """Return the defaults in docs/guides/budgets.md."""
    return {}


def _joined(value: object) -> object:
    """Join a list of `config.toml` to the text that a variable would have."""
    if not isinstance(value, list):
        return value
    for each in value:
        if not isinstance(each, str) or "," in each:
            raise ValueError(f"{each!r} is no entry; write texts without a comma")
    return ", ".join(value)


AT_START = Marker(at_start=True)
CommaSeparated = Annotated[str, BeforeValidator(_joined)]
"""Setting with several entries: text with commas, or in `config.toml` also a list of texts."""


class Settings(BaseSettings):
    """Settings of one home. `load` raises `InvalidInput` for an invalid value."""

    # Only the class with the settings of features (`all_settings`) has instances.
    model_config = SettingsConfigDict(
        env_prefix="DAYBOOK_", extra="ignore", defer_build=True, frozen=True
    )

    home: Path = Field(
        default_factory=home_path,
        description="Folder of the ledger, the embedded Prefect and the logs.",
    )
    ledger_url: Annotated[str, AT_START] = Field(
        default="",
        description="Address of the ledger: `sqlite+aiosqlite:////path/ledger.db` with an absolute "
        "path, or `postgresql://user@host/database`. Empty: `ledger.db` in the home.",
    )
    timezone: Annotated[str, AT_START] = Field(
        default_factory=machine_timezone,
        description="IANA time zone of jobs that do not set one.",
    )

    max_concurrent: Annotated[int, AT_START] = Field(
        default=4,
        ge=1,
        description="Maximum number of concurrent runs on all machines; others are `waiting`.",
    )
    worker_limit: Annotated[int, AT_START] = Field(
        default=0, ge=0, description="Maximum number of concurrent runs in a worker. 0: no limit."
    )
    worker_labels: Annotated[CommaSeparated, AT_START] = Field(
        default="",
        description="Labels of this home's workers, comma-separated: `gpu`. Only workers with the "
        "label of a job (`worker_label`) start its runs.",
    )
    allowed_hosts: CommaSeparated = Field(
        default="",
        description="Host names, addresses and networks, comma-separated, that jobs may reach "
        "although Daybook would otherwise refuse them: `intranet.example.org, 10.0.0.0/8`. A "
        "cloud's metadata service is allowed only by its exact address.",
    )

    allowed_work_dirs: CommaSeparated = Field(
        default="~",
        description="Folders, comma-separated, that may contain the work directories of jobs: "
        "absolute paths, or paths that begin with ~. The default is the home of the user who runs "
        "Daybook. Empty: no job may have a work directory.",
    )

    sandbox: Literal["off", "workspace", "strict"] = Field(
        default="off",
        description="Sandbox of the programs of jobs that choose none: command agents, checks, "
        "watches, `shell`, setup and verify. Jobs of agents cannot choose a weaker one.",
    )

    alert_channel: str = Field(
        default="inbox",
        min_length=1,
        description="Channel for alerts to the operator, such as failures of jobs whose own "
        "channel does not receive them, and late runs.",
    )
    ping_url: SecretStr = Field(
        default=SecretStr(""),
        description="URL (http or https) of a dead man's switch, such as healthchecks.io. The "
        "leading keeper requests it every 30 seconds while all findings of `daybook status` are "
        "clear. Empty: none.",
    )
    ping_findings: CommaSeparated = Field(
        default="",
        description="Findings, comma-separated, that stop the ping: "
        + ", ".join(f"`{each}`" for each in STATUS_FINDINGS)
        + ", or the name of a feature in `daybook status --json`. A named finding stops it even if "
        "it is only a warning. Empty: all, without warnings.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Secret (`whsec_…`) that signs callbacks to destinations without a secret of "
        "their own. Empty: the secret in the home's file `webhook-secret`, which Daybook creates "
        "on first use. On several machines, set the same secret on each.",
    )

    max_light: int = Field(
        default=0,
        ge=0,
        description="Maximum number of concurrent runs of the class `light`, within "
        "`DAYBOOK_MAX_CONCURRENT`. 0: no separate limit.",
    )
    max_medium: int = Field(
        default=0, ge=0, description="The same for the class `medium`, the default."
    )
    max_resource_intensive: int = Field(
        default=0, ge=0, description="The same for the class `resource-intensive`."
    )
    max_per_agent: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="Maximum number of concurrent runs of agents, by name: a table, "
        '`[max_per_agent]` in `config.toml`, or JSON such as `{"claude": 2}`. An agent that is not '
        "named has no limit of its own.",
    )

    max_per_label: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="Maximum number of concurrent runs on all machines of jobs with a label "
        '(`worker_label`): a table, `[max_per_label]` in `config.toml`, or JSON such as `{"gpu": '
        "2}`. A label that is not named has no limit of its own.",
    )

    budget: dict[str, Any] = Field(
        default_factory=default_budget,
        description="Budget of all runs and of single agents, in tokens and US dollars: a table, "
        "`[budget]` in `config.toml`, or JSON. docs/guides/budgets.md lists the keys.",
    )
    limits: dict[str, Any] = Field(
        default_factory=default_limits,
        description="Limits of agents' own jobs: a table, `[limits]` in `config.toml`, or JSON. "
        "docs/guides/limits.md lists the keys.",
    )
    user_jobs: bool = Field(
        default=True,
        description="Whether jobs of users and agents run. If false, Daybook runs only plugins' "
        "jobs and heartbeats, and skips the others.",
    )
    execution_off: CommaSeparated = Field(
        default="",
        description="Kinds of jobs, comma-separated, that are logged and not executed: `webhook, "
        "tool-call`; `all` for every kind. Their runs are claimed as usual and end as `skipped`, "
        "`execution is switched off`; the run's log says what it would have done.",
    )
    summary_agent: str = Field(
        default="",
        description="Agent that summarizes the older messages of sessions whose history is "
        "compressed. Empty: the agent of the session.",
    )
    title_agent: str = Field(
        default="",
        description="Agent that writes the titles of sessions. Empty: the title is the first line "
        "of the session's first prompt.",
    )
    plugins: Annotated[CommaSeparated, AT_START] = Field(
        default="",
        description="Python modules, comma-separated, that register tools and listeners: "
        "`my_app.jobs`. Daybook imports them before it runs a job.",
    )

    web_port: Annotated[int, AT_START] = Field(
        default=4280,
        ge=0,
        lt=2**16,
        description="Port on which `daybook up` serves its pages, hooks, `/health` and `/metrics`, "
        "for this machine only, unless `web_host` is set. If the port is in use, `daybook up` "
        "chooses a free one and prints it. 0: no server.",
    )
    web_host: Annotated[str, AT_START] = Field(
        default="127.0.0.1",
        description="IP address on which `daybook up` serves them, such as `0.0.0.0` in a "
        "container. Other machines can then reach hooks, `/health` and `/metrics`; they reach the "
        "pages only with a `public_url` that has https or names this machine.",
    )
    web_names: Annotated[CommaSeparated, AT_START] = Field(
        default="",
        description="Host names, comma-separated, that clients may use besides the names of this "
        "machine and of `public_url`.",
    )
    public_url: Annotated[str, AT_START] = Field(
        default="",
        description="Address under which a reverse proxy serves the pages and hooks, such as "
        "`https://daybook.example.org` or `https://example.org/daybook`. The proxy has to keep the "
        "`Host` header and the path. Empty: the pages answer only at this machine's own names.",
    )

    command_server: Annotated[bool, AT_START] = Field(
        default=True,
        description="Whether `daybook up` keeps a process that has imported everything, so that "
        "commands answer at once.",
    )

    max_process_memory: Annotated[int, AT_START] = Field(
        default=4096,
        ge=0,
        description="Maximum of the resident memory of each process of `daybook up`, in MB, at "
        f"least {MIN_PROCESS_MEMORY}. One that exceeds it is replaced; the worker when no run is "
        "active, and the parent process of the runs without ending them. 0: no limit.",
    )

    keep_days: int = Field(
        default=90,
        ge=0,
        description="Days to keep ended runs and sessions, in the ledger and in an embedded "
        "Prefect, which takes a change when `daybook up` starts. 0: forever.",
    )
    keep_transcript_days: int = Field(
        default=30,
        ge=0,
        description="Days to keep the texts of steps: what an agent and its tools were asked and "
        "replied, and what a person was asked to approve. The steps themselves, with their usage, "
        "are kept as long as their run. 0: as long as the run, too.",
    )
    keep_disabled_days: int = Field(
        default=0,
        ge=0,
        description="Days after which a disabled job is removed if it was neither edited nor run "
        "meanwhile, and no other job names it. Its history is kept like all other. 0: never.",
    )
    keep_runs: int = Field(
        default=1000,
        ge=0,
        description="Number of newest runs to keep for each job, and of newest prompts with their "
        "answers for each session. 0: all.",
    )

    @property
    def data_folders(self) -> list[Path]:
        """Return the existing folders of Daybook's databases, spool and logs."""
        home, address = self.home, self.ledger_address
        folders = [home, home / "prefect", home / "spool", home / "logs"]
        if address.startswith("sqlite"):
            folders.append(Path(address.partition(":///")[2].partition("?")[0]).parent)
        return [each for each in folders if each.is_dir()]

    @property
    def max_memory(self) -> int:
        """Return `max_process_memory` in bytes."""
        return self.max_process_memory * 10**6

    @field_validator("max_process_memory")
    @classmethod
    def _check_max_process_memory(cls, value: int) -> int:
        if 0 < value < MIN_PROCESS_MEMORY:
            least = f"use at least {MIN_PROCESS_MEMORY}, or 0 for no limit"
            raise ValueError(f"is less than a process needs; {least}")
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        if value not in zone_names.names():
            raise ValueError(f'unknown time zone "{value}"; {zone_names.hint(value)}')
        return value

    @field_validator("home", mode="before")
    @classmethod
    def _resolve_home(cls, value: object) -> Path:
        return home_path()  # a relative or empty value would name another folder in each process

    @field_validator("ledger_url")
    @classmethod
    def _check_ledger_url(cls, value: str) -> str:
        # A relative path or an in-memory database would give each process its own ledger. A run's
        # process changes its working directory, and no process sees the memory of another process.
        if not value:
            return value
        if value.startswith("sqlite+aiosqlite:////"):
            if "?" in value:
                raise ValueError("has a ?, at which the path ends; use an absolute path without it")
            return value
        if match := _POSTGRESQL.match(value):
            query = re.sub(r"([?&])sslmode=", r"\1ssl=", match["query"] or "")  # libpq's name
            return f"postgresql+asyncpg://{match['place']}{query}"
        raise ValueError(
            "is not a ledger address; use the absolute path of a file, such as "
            "sqlite+aiosqlite:////path/ledger.db, or a database, such as "
            "postgresql://user@host/database"
        )

    @field_validator("ping_url")
    @classmethod
    def _check_ping_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("is not a URL; write one that starts with https://")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str, info: ValidationInfo) -> str:
        match = _PUBLIC_URL.match(value)
        if value and (match is None or int(match["port"] or 1) not in range(1, 2**16)):
            raise ValueError(
                "is not the address of a site; write a scheme and a name, a port if it is not the "
                "scheme's, and the path of the pages if they have one, such as "
                "https://daybook.example.org or https://example.org/daybook"
            )
        # A container's port may be published to the machine that runs the container.
        own = ["127.0.0.1"]
        own += ["localhost"] if ip_address(info.data.get("web_host", own[0])).is_loopback else []
        if match is not None and match["host"].lower() in own:
            raise ValueError("is an address of this machine itself; those need no setting")
        if match is None:
            return ""
        # Return the form that browsers use in `Host` and `Origin`.
        origin = match["origin"].lower()
        standard = ":443" if origin.startswith("https:") else ":80"
        return origin.removesuffix(standard) + match["path"]

    @field_validator("web_host")
    @classmethod
    def _check_web_host(cls, value: str) -> str:
        try:
            return str(ip_address(value.strip()))
        except ValueError:
            raise ValueError(f'"{value}" is not an IP address; use 127.0.0.1 or 0.0.0.0') from None

    @field_validator("ping_findings")
    @classmethod
    def _check_ping_findings(cls, value: str) -> str:
        names = [*STATUS_FINDINGS, *(each.name for each in feature.features() if each.status)]
        for name in entries(value):
            if name not in names and not feature.failures:  # one that is left out may have it
                known = ", ".join(names)
                raise ValueError(f'"{name}" is not a finding; write some of {known}')
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not signing_key(value.get_secret_value()):
            raise ValueError(f"is not a signing secret; {SIGNING_SECRET_FORMAT}")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        for entry in entries(value):
            try:
                ip_network(entry.removeprefix("[").removesuffix("]"))
            except ValueError:
                # A name's last label contains a letter: 10.0.0.1/8 and 010.0.0.1 are malformed
                # addresses.
                if not _NAME.match(entry) or len(entry) > 253:
                    raise ValueError(
                        f'"{entry}" is not a host; use names, addresses and networks without '
                        "scheme, port or *, such as intranet.example.org, 10.0.0.5, 10.0.0.0/8"
                    ) from None
        return value

    @field_validator("allowed_work_dirs")
    @classmethod
    def _check_work_dirs(cls, value: str) -> str:
        for entry in entries(value):
            if not entry.startswith(("/", "~")):
                raise ValueError(f'"{entry}" is relative; use an absolute path, or one with ~')
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
        # `home` is no key, because the file is in the home. A feature that is left out may know
        # other keys.
        keys = all_settings().model_fields.keys() - {"home"}
        values = settings_file.read(config_file(), keys, strict=not feature.failures)
        file = InitSettingsSource(settings_cls, values)
        return (init_settings, env_settings, file)

    @property
    def max_of_class(self) -> dict[str, int]:
        """Return the maximum number of concurrent runs of each class that has a limit."""
        limits = {
            "light": self.max_light,
            "medium": self.max_medium,
            "resource-intensive": self.max_resource_intensive,
        }
        return {name: limit for name, limit in limits.items() if limit}

    @property
    def work_dir_roots(self) -> list[str]:
        """Return the folders of `allowed_work_dirs`, without expanding `~`."""
        return entries(self.allowed_work_dirs)

    @property
    def ledger_address(self) -> str:
        """Return the SQLAlchemy URL in use.

        Raise `InvalidInput` while a restore into this home is not complete.
        """
        if Home(self.home).restoring.exists():
            problem = f"the restore into {self.home} was interrupted"
            raise InvalidInput("home", problem, "run the same `daybook restore` again")
        return self.ledger_url or f"sqlite+aiosqlite:///{self.home / 'ledger.db'}"


def entries(value: str) -> list[str]:
    """Return the comma-separated entries of a setting, without blanks."""
    return [entry for entry in map(str.strip, value.split(",")) if entry]


def config_file() -> Path:
    """Return the path of the settings file in the home; the file need not exist."""
    return home_path() / "config.toml"


@cache
def all_settings() -> type[Settings]:
    """Return the class of all settings: `Settings`, and those that features add."""
    parts, taken = list[type](), set(Settings.model_fields)
    for each in feature.loaded("settings"):
        if why := _unsuitable(each, taken):
            feature.failures[f"settings of {each.__module__}"] = why
            continue
        parts.append(each)
        taken |= each.model_fields.keys()
    return type("AllSettings", (*parts, Settings), {"__module__": __name__})


def _unsuitable(part: Any, taken: set[str]) -> str:
    """Return why these settings of a feature cannot be used; empty if they can."""
    if not (isinstance(part, type) and issubclass(part, BaseModel)):
        return "this is no pydantic model"
    if same := taken & part.model_fields.keys():
        return f"{', '.join(sorted(same))}: a setting has this name already"
    required = sorted(name for name, each in part.model_fields.items() if each.is_required())
    return f"{', '.join(required)}: a setting needs a default" if required else ""


def part(kind: type[T]) -> T:
    """Return the settings of this process as ``kind``, the class that a feature adds.

    Raise the errors of `load`, and `DaybookError` if it is left out.
    """
    loaded = load()
    if not isinstance(loaded, kind):
        raise DaybookError(f"the settings {kind.__name__} are left out; `daybook doctor` says why")
    return loaded


def check_features() -> None:
    """Raise `InvalidInput` if a feature cannot use its settings: call the `check` of their class.

    Raise also the errors of `load`.
    """
    loaded, invalid = load(), list[InvalidInput]()
    for each in feature.features():
        if each.settings:
            with feature.leaving_out(each, "settings"):
                kind = each.load(each.settings)
                if isinstance(loaded, kind) and (check := vars(kind).get("check")):
                    try:
                        check(loaded)
                    except InvalidInput as error:
                        invalid.append(error)
    if invalid:
        raise invalid[0]


def load(**given: Any) -> Settings:
    """Return the settings of this process, as the variables and the file are now.

    The values in ``given`` override both. Raise an `InvalidInput` that names the invalid variable,
    or the file and its problem.
    """
    sources = None if given else _sources()
    return _load(given) if sources is None else _load_once(sources)


@lru_cache(maxsize=1)
def _load_once(sources: tuple[object, ...]) -> Settings:
    """Return the settings of these `_sources`; to load them takes milliseconds."""
    return _load({})


def _sources() -> tuple[object, ...] | None:
    """Return all that the settings depend on; None if the file cannot be read."""
    try:
        text = config_file().read_bytes()
    except FileNotFoundError:
        text = None
    except OSError:
        return None
    variables = (item for item in os.environ.items() if item[0].upper().startswith("DAYBOOK_"))
    return all_settings(), home_path(), text, *variables


def _load(given: dict[str, Any]) -> Settings:
    try:
        return all_settings()(**given)
    except SettingsError as error:  # a variable that should hold JSON; do not repeat its text
        named = re.search(r'field "(\w+)"', str(error))
        raise invalid_setting(named[1] if named else "settings", "is not valid JSON") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = "_".join(str(part) for part in first["loc"])
        problem = str(first["msg"]).removeprefix("Value error, ")
        if key in given:
            raise InvalidInput(f"DAYBOOK_{key.upper()}", problem) from error
        raise invalid_setting(key, problem) from error


def invalid_setting(key: str, problem: str, hint: str = "") -> InvalidInput:
    """Return the error for an invalid setting: it names the variable, or the file and the key."""
    variable = f"DAYBOOK_{key.upper()}"
    if variable in os.environ:
        return InvalidInput(variable, problem, hint)
    return InvalidInput(str(config_file()), f"{key}: {problem}", hint)
