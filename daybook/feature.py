"""Features: parts that Daybook works without. Each is a folder of `daybook.features`.

The `__init__.py` of the folder has a descriptor, `FEATURE`, which lists what the feature adds. The
rest of Daybook names no feature, but goes through `features`::

    commands          `cli.main`              operations  `api.client`
    tools             `toolbox.tools`         documents   `keeper.blocks`
    operator_tools    `toolbox.tools`         blocks      `blocks`
    agent_tools, first_tools, spec_tools            `execution.builtin_tools`
    program_folders                                 `execution.program_folders`
    workspace         `execution.workspaces`
    sources           `api.sources`           files       `api.run_files`
    pictures          `execution.conversation`
    devices           `web.pages.site`      channels      `delivery.channels`
    run_links         `api.run_life`          message_links  `delivery.links`
    message_buttons   `delivery.buttons`
    resources         `mcp.resources`         status      `diagnosis.feature_status`
    pages, links      `web.pages`             needs       `diagnosis.attention`
    new_job_links     `web.pages`
    changes           `api.changes`           metrics     `diagnosis.health`
    endpoint          `web.app`               loops       `keeper.services`
    settings          `settings`              retention   `keeper.retention`
    tables            `ledger.feature_tables` restored    `features.backups`
    ledger_checks     `diagnosis.doctor`      at_start    `operations.preparation`

A descriptor names each object as a text, ``"module:name"`` with the module in the feature's folder.
So a process imports only the modules that it uses, and `daybook --help` stays fast.

To add a feature, write its folder; a feature imports any other package, but no other feature.
Another distribution adds one with an entry point of the group `daybook.features`. To let features
add something else, add a field to `Feature`, and loop over it in one place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules, resolve_name
from typing import Any

PACKAGE = "daybook.features"
GROUP = "daybook.features"
"""Group of the entry points by which other distributions add features: ``module:FEATURE``."""


@dataclass(frozen=True)
class Commands:
    """Commands of the functions ``<name>_`` in a ``module``, in a section of `daybook --help`.

    The commands begin with the words ``group``, such as `task session`; with an empty ``group``,
    each is a command of one word. ``help`` is the group's help, to which the names of its commands
    are added. A group inside another one has no section. Commands of an existing group are added to
    it; its help stays.
    """

    section: str
    module: str
    names: tuple[str, ...]
    group: str = ""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a feature adds.

    - ``package`` is its package (``__name__``).
    - ``operations`` is a subclass of `api.client_methods.Operations`, and the attribute of `Client`
      with the feature's name. For `SyncClient`, the module has a class with the prefix `Sync`.
    - ``tools`` are `agents.base.Tool`s for agents and the operator, and ``operator_tools`` are
      those that only the operator has.
    - ``agent_tools`` are words for the setting `tools` of agents, each with a coroutine function of
      `execution.builtin_tools.ToolContext`, which returns the `agents.base.Tool`s of this word.
      ``first_tools`` are those of these words that the agent `default` of a new home has.
      ``spec_tools`` are capabilities of pydantic-ai's agent specs (`agents.spec`), each with the
      entry of the setting `tools` that is their counterpart.
    - ``program_folders`` are those of these words that an agent that is a program may have, each
      with a coroutine function of a pattern of names, which returns the matching
      `agents.base.ProgramFolder`s. Without any, it raises `UnknownName`, except for ``*``.
    - ``workspace`` is an `execution.workspaces.WorkspaceKind`: the class of the workspaces of runs
      in a repository.
    - ``sources`` is a function of a `ledger.views.Step`, a call that succeeded. It returns the
      `ledger.views.RunSource` that the call has read, None if it has read none.
    - ``files`` is a module with two coroutine functions of a read session and a run's id: `of_run`
      returns the `ledger.views.RunFile`s of the run, and `content`, which gets also a path, returns
      the bytes of a file, None if they are not kept.
    - ``pictures`` is a coroutine function of a read session and the ids of runs. It returns the
      `agents.pictures.Picture`s that a person has sent with the prompts of these runs, by run id.
    - ``run_links`` is a coroutine function of a read session and a run's id. It returns the
      `ledger.views.RunLink`s of the run's page.
    - ``message_links`` is a coroutine function of a read session, an `OutboxRow` and the public
      URL. It returns the lines of this message before the link to its run, when it is sent.
    - ``message_buttons`` is a coroutine function of a read session and an `OutboxRow`. It returns
      the `delivery.buttons.MessageButton`s of this message, as they are now.
    - ``channels`` are `delivery.channels.base.ChannelKind`s: channels with a block type of their
      own.
    - ``resources`` is a class of `mcp.resources.Resources`.
    - ``pages`` is a module with `ROUTES` and perhaps `ACTIONS` and their `MESSAGES` (`web.pages`),
      `DOCUMENTS`, the pages of its settings documents (`web.pages.documents`), and `SETTINGS`, its
      links on the page Settings; its templates are in the feature's folder ``templates``. ``links``
      are the paths and names of its pages. Today links a finding whose `check` is the feature's
      name to the first of them.
      ``new_job_links`` are the paths and names of its pages that add a job; the pages show them
      beside the button for a new job.
    - ``devices`` is a module with the functions of `web.login.Devices`: the browsers that are
      logged in to the pages.
    - ``changes`` returns the queries that detect changes of its live pages (`api.changes.part`).
    - ``status`` is a class of `diagnosis.feature_status.FeatureStatus`.
    - ``needs`` is a coroutine function of `attention.AttentionFacts`, which returns findings for
      Today.
    - ``documents`` are the `BlockStore`s of its settings documents, and ``blocks`` are the Prefect
      blocks of these.
    - ``settings`` is a pydantic model whose fields are settings of the operator
      (`settings.part`). Its module imports neither Prefect nor a database. If the model has a
      method `check`, then `up`, workers and `doctor` call it; it raises `InvalidInput`.
    - ``loops`` are `keeper.services.Loop`s.
    - ``ledger_checks`` are the names of checks of `doctor` that need the ledger, with the check.
    - ``metrics`` is a coroutine function of a session of the ledger and of the ledger's time. It
      returns Prometheus metrics (`prometheus_client.Metric`) whose names begin with `daybook_`.
    - ``tables`` is a module of `ledger.table_parts.Table`s, and the feature's folder `migrations`
      has their migrations (`ledger.feature_tables`). The module's `NOUNS` are the kinds of rows
      whose ids people may shorten (`ledger.references.Noun`).
    - ``retention`` are coroutine functions of the ledger and of `runs.retention.RetentionLimits`.
      Each deletes one batch of old rows, and returns their number: 0 if none are left. The numbers
      of the first one are in the report.
    - ``restored`` is a coroutine function of a write session of a restored ledger, and of its
      `runs.restored.Restore`. It pauses the work that may have been done since the backup, and
      returns the number of paused objects; None if it pauses nothing, but only changes rows.
    - ``endpoint`` returns its `web.endpoint.Endpoint`.
    - ``at_start`` is a coroutine function of the ledger, and of a function that shows a line. `up`
      calls it before the first sync. It must be idempotent.
    """

    package: str
    commands: tuple[Commands, ...] = ()
    operations: str = ""
    tools: str = ""
    operator_tools: str = ""
    agent_tools: tuple[tuple[str, str], ...] = ()
    first_tools: tuple[str, ...] = ()
    spec_tools: tuple[tuple[str, str], ...] = ()
    program_folders: tuple[tuple[str, str], ...] = ()
    workspace: str = ""
    sources: str = ""
    files: str = ""
    pictures: str = ""
    run_links: str = ""
    message_links: str = ""
    message_buttons: str = ""
    channels: tuple[str, ...] = ()
    resources: str = ""
    pages: str = ""
    links: tuple[tuple[str, str], ...] = ()
    new_job_links: tuple[tuple[str, str], ...] = ()
    devices: str = ""
    changes: str = ""
    status: str = ""
    needs: str = ""
    documents: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    settings: str = ""
    loops: str = ""
    ledger_checks: tuple[tuple[str, str], ...] = ()
    metrics: str = ""
    tables: str = ""
    retention: tuple[str, ...] = ()
    restored: str = ""
    endpoint: str = ""
    at_start: str = ""

    @property
    def name(self) -> str:
        return self.package.rpartition(".")[2]

    @property
    def is_own(self) -> bool:
        """Return whether this is a feature of Daybook, and not of another distribution."""
        return self.package.startswith(f"{PACKAGE}.")

    @property
    def folder(self) -> Path:
        return Path(import_module(self.package).__path__[0])

    def load(self, path: str) -> Any:
        """Return the object at ``path``, ``"module:name"`` in the feature's package."""
        return resolve_name(f"{self.package}.{path}")

    def load_operations(self, *, blocking: bool) -> Any:
        """Return the class of the operations or, with ``blocking``, of those without `await`."""
        module, _, name = self.operations.partition(":")
        return self.load(f"{module}:{'Sync' * blocking}{name}")


def features() -> tuple[Feature, ...]:
    """Return the features of Daybook, and then those of other distributions, sorted by name.

    Leave out those of others that cannot be imported (`failures`), whose name is taken, or that
    were left out since (`leaving_out`).
    """
    return tuple(each for each in _installed() if each.name not in left_out)


@cache
def _installed() -> tuple[Feature, ...]:
    folder = import_module(PACKAGE).__path__
    names = sorted(each.name for each in iter_modules(folder, f"{PACKAGE}."))
    own: list[Feature] = [import_module(each).FEATURE for each in names]
    found = {each.name: each for each in own}
    if _is_group_used():
        from importlib.metadata import entry_points

        for each in sorted(entry_points(group=GROUP), key=lambda each: each.name):
            try:
                feature = each.load()
                if not isinstance(feature, Feature):
                    raise TypeError(f"{each.value} is no daybook.feature.Feature")
                if feature.name in found:
                    raise ValueError(f"another feature is called {feature.name}")
                # The name is a part of the names of tables.
                if not _is_lower(feature.name) or not feature.folder.is_dir():
                    raise ValueError(f"{feature.package} is no package with a lower-case name")
            except Exception as error:  # Daybook works without it
                failures[each.name] = f"{type(error).__name__}: {error}"
            else:
                found[feature.name] = feature
    return tuple(found.values())


failures: dict[str, str] = {}
"""Why features of other distributions, or parts of them, are left out, by their names."""


def _is_lower(name: str) -> bool:
    return name.isascii() and name.isidentifier() and name == name.lower()


left_out: set[str] = set()
"""Names of the features of other distributions that this process leaves out as a whole."""


@contextmanager
def leaving_out(feature: Feature | None, part: str, *, whole: bool = False) -> Iterator[None]:
    """Leave out ``part`` of a feature of another distribution if the block fails (`failures`).

    With ``whole``, leave out the whole feature from now on. An error in a feature of Daybook, or in
    no feature (None), is raised.
    """
    try:
        yield
    except Exception as error:
        if feature is None or feature.is_own:
            raise
        failures[f"{part} of {feature.name}"] = f"{type(error).__name__}: {error}"
        if whole:
            left_out.add(feature.name)


def _is_group_used() -> bool:
    """Return whether a distribution may have entry points of `GROUP`.

    `importlib.metadata` needs ten times as long to answer this, for each `daybook --help`.
    """
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.endswith((".dist-info", ".egg-info")):
                    with suppress(OSError), open(f"{folder}/{name}/entry_points.txt", "rb") as file:
                        if f"[{GROUP}]".encode() in file.read():
                            return True
    return False


def loaded(field: str) -> Iterator[Any]:
    """Yield the objects that the ``field`` of each feature names; imports their modules.

    Leave out an object of another distribution that cannot be imported (`failures`).
    """
    for each in features():
        paths = getattr(each, field)
        for path in (paths,) if isinstance(paths, str) else paths:
            found = None
            if path:
                with leaving_out(each, field):
                    found = each.load(path)
            if found is not None:
                yield found


def load_others() -> None:
    """Load all objects of the features of other distributions, so that `failures` is complete."""
    for each in features():
        if each.is_own:
            continue
        named = {each_field.name: getattr(each, each_field.name) for each_field in fields(each)}
        paths = [(name, value) for name, value in named.items() if isinstance(value, str)]
        paths += [
            (name, path)
            for name in ("documents", "blocks", "channels", "retention")
            for path in named[name]
        ]
        paths += [(f"check {name}", path) for name, path in each.ledger_checks]
        paths += [(f"tool {name}", path) for name, path in each.agent_tools]
        paths += [(f"folders {name}", path) for name, path in each.program_folders]
        paths += [
            (f"command {name}", f"{given.module}:{name}_")
            for given in each.commands
            for name in given.names
        ]
        for name, path in paths:
            if path and name != "package":
                with leaving_out(each, name):
                    each.load(path)
