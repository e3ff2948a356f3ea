"""Features: descriptors name what exists, another distribution adds one, and none is necessary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from daybook import feature, settings
from daybook.feature import Feature, features
from daybook.home import Home
from tests.amputation import copied_without
from tests.servers import NOWHERE

OWN = features()

GREETINGS = {
    "__init__.py": """
        from daybook.feature import Commands, Feature

        FEATURE = Feature(
            package=__name__,
            commands=(Commands("More", "commands", ("greet",)),),
            operations="client:Greetings",
            tools="tools:TOOLS",
            operator_tools="tools:OPERATOR_TOOLS",
            resources="resources:People",
            tables="tables",
            changes="greeted:changes",
            status="greeted:GreetingStatus",
            metrics="greeted:metrics",
            retention=("greeted:delete_old",),
            restored="greeted:pause",
            pages="page",
            links=(("/greetings", "Greetings"),),
            needs="needs:greetings",
            settings="settings:GreetingSettings",
            loops="loops:LOOPS",
            endpoint="endpoint:Doorbell",
        )
        """,
    "commands.py": """
        def greet_() -> int:
            "Greet a person."
            print("hello from a command")
            return 0
        """,
    "client.py": """
        from daybook.api.client_methods import Blocking, Operations, operation

        async def hello(name: str) -> str:
            return f"hello {name} from an operation"

        class Greetings(Operations):
            hello = operation(hello)

        class SyncGreetings(Blocking, Greetings):
            pass
        """,
    "tools.py": """
        from daybook.toolbox.invocation import define_tool

        async def _greet(given):
            return "hello from a tool"

        TOOLS = (define_tool("greet", "Greet a person.", _greet, read_only=True),)
        OPERATOR_TOOLS = (define_tool("greet_all", "Greet all.", _greet, read_only=True),)
        """,
    "page.py": """
        from daybook.web.pages.site import Page

        async def show(site, request):
            return site.render(request, "greetings.html")

        ROUTES = (Page("/greetings", show),)
        """,
    "needs.py": """
        from daybook.finding import warning

        async def greetings(facts):
            return [warning("greetings", "Ann waits", "daybook greet", kind="greeting")]
        """,
    "settings.py": """
        from pydantic import BaseModel

        class GreetingSettings(BaseModel):
            greeting: str = "hello"

            def check(self):
                if self.greeting != "hello":
                    raise ValueError(self.greeting)
        """,
    "loops.py": """
        from datetime import timedelta
        from functools import partial
        from daybook.keeper.services import Loop, Service

        async def greet():
            return None

        LOOPS = (
            Loop(
                interval=lambda: timedelta(hours=1),
                services=(Service("greet", "greets", lambda context, _: greet),),
            ),
        )
        """,
    "tables.py": """
        from sqlmodel import Field
        from daybook.ledger.table_parts import Table

        class GreetingRow(Table, table=True):
            __tablename__ = "greetings_given"
            name: str = Field(primary_key=True)
        """,
    "migrations/HEAD": "1",
    "migrations/versions/1_first.py": """
        import sqlalchemy as sa
        from alembic import op

        revision, down_revision = "1", None

        def upgrade():
            op.create_table("greetings_given", sa.Column("name", sa.String(), primary_key=True))
        """,
    "resources.py": """
        from mcp_types import ListResourcesResult, Resource
        from daybook.mcp.resources import Resources

        class People(Resources):
            uri_prefix, instructions = "greetings://", "Greet people."

            def __init__(self, clients):
                pass

            async def listed(self, context, params):
                return ListResourcesResult(resources=[Resource(name="Ann", uri="greetings://ann")])

            async def read(self, context, params):
                return "Ann"

            listen = subscribe = unsubscribe = end = close = read
        """,
    "greeted.py": """
        from prometheus_client.core import GaugeMetricFamily
        from sqlmodel import delete, func, select
        from daybook.api.changes import part
        from daybook.diagnosis.feature_status import FeatureStatus
        from daybook.finding import warning
        from greetings.tables import GreetingRow

        def changes():
            return [part("greetings", func.count(GreetingRow.name))]

        class GreetingStatus(FeatureStatus, frozen=True):
            given: int

            @classmethod
            async def read(cls, session, now):
                query = select(func.count()).select_from(GreetingRow)
                return cls(given=(await session.execute(query)).scalar())

            def findings(self):
                return [warning("greetings", "Ann was greeted")]

            def line(self):
                return f"{self.given} given"

        async def pause(session, restore):
            return 7

        async def metrics(session, now):
            given = (await session.execute(select(func.count()).select_from(GreetingRow))).scalar()
            return [GaugeMetricFamily("daybook_greetings", "Greetings.", value=given)]

        async def delete_old(ledger, keep):
            async with ledger.write() as session:
                return (await session.execute(delete(GreetingRow))).rowcount
        """,
    "endpoint.py": """
        class Doorbell:
            path, help = "/doorbell/", ""

            def __init__(self, address):
                pass
        """,
    "templates/greetings.html": "hello from a page",
}
RUDE = {
    "__init__.py": """
        from daybook.feature import Commands, Feature

        FEATURE = Feature(
            package=__name__,
            commands=(Commands("More", "commands", ("list",)),),
            operator_tools="tools:TOOLS",
            settings="settings:Taken",
            loops="loops:LOOPS",
            endpoint="endpoint:Everything",
        )
        TAKEN = Feature(package="another.hooks")
        """,
    "commands.py": "",
    "tools.py": """
        from greetings.tools import _greet, define_tool

        TOOLS = (define_tool("cron_list", "Not the real one.", _greet, read_only=True),)
        """,
    "settings.py": """
        from pydantic import BaseModel

        class Taken(BaseModel):
            timezone: str = "Mars/Olympus"
        """,
    "loops.py": "LOOPS = 1 / 0",
    "endpoint.py": """
        class Everything:
            path, help = "/", ""

            def __init__(self, address):
                pass
        """,
}
UNMIGRATED = {
    "__init__.py": """
        from daybook.feature import Feature

        FEATURE = Feature(package=__name__, tables="tables")
        """,
    "tables.py": "",
}
PROGRAM = """
import asyncio, json
from datetime import timedelta
from types import SimpleNamespace
import daybook
from daybook import feature, settings, toolbox
from daybook.api import changes
from daybook.cli.main import main
from daybook.features.backups import uncertain
from daybook.keeper import retention, services
from daybook.ledger.engine import open_ledger
from daybook.diagnosis import attention, doctor, status
from daybook.diagnosis.health import HealthMonitor
from daybook.mcp.resources import AllResources, Clients
from daybook.owners import Actor
from daybook.runs.restored import Restore
from daybook.schedules.zones import zone
from daybook.web import endpoint, metrics, pages

async def metric(ledger):
    monitor = HealthMonitor(ledger.address, patience=60)
    text, _ = metrics.page(await monitor.snapshot(), "")
    await monitor.close()
    return [each for each in text.decode().splitlines() if each.startswith("daybook_greetings")]

async def read():
    async with open_ledger() as ledger:
        from greetings.tables import GreetingRow
        async with ledger.write() as session:
            session.add(GreetingRow(name="Ann"))
        given = await metric(ledger)
        reported = await status.status()
        seen = (await changes.read()).text
        async with ledger.write() as session:
            at = ledger.now()
            restore = Restore(backup=at - timedelta(hours=1), at=at)
            paused = (await uncertain.record(session, restore)).paused["greetings"]
        pruned = (await retention.prune(ledger)).features
    from greetings.settings import GreetingSettings
    settings.check_features()
    resources = AllResources(Clients(lambda _: Actor(), None, 1, 1))
    found = await doctor.doctor()
    site = pages.application(None).state.site
    return {
        "operation": await daybook.Client().greetings.hello("Ann"),
        "metrics": given,
        "pruned": pruned,
        "paused": paused,
        "status": reported.model_dump()["greetings"],
        "line": reported.greetings.line(),
        "problems": [each.title for each in reported.problems if each.check == "greetings"],
        "seen": "('greetings', '1'" in seen,
        "resources": [each.name for each in (await resources.listed(None, None)).resources][-1],
        "instructions": resources.instructions.partition(" Greet")[1:],
        "read": await resources.read(None, SimpleNamespace(uri="greetings://ann")),
        "tool": (await toolbox.call("greet")).text,
        "tools of agents": [each.name for each in toolbox.agent_tools() if "greet" in each.name],
        "needs": [each.first.title for each in await attention.read(zone("Etc/UTC"))],
        "template": site._templates.get_template("greetings.html").render(),
        "links": [name for _, name in site._templates.globals["navigation"]],
        "endpoints": [each.path.strip("/") for each in endpoint.of_features("")],
        "not served": feature.failures["endpoint of rude"],
        "loop": services.loops()[-1].services[0].name,
        "setting": settings.part(GreetingSettings).greeting,
        "findings": [each.message for each in found if each.check == "features"],
        "lost": [each.message for each in found if each.check == "feature tables"],
    }

assert main(["greet"]) == 0
found = asyncio.run(read())
found["blocking"] = daybook.SyncClient().greetings.hello("Bob")
found["features"] = [each.name for each in feature.features()]
print(json.dumps(found))
"""


def run(
    *arguments: str, home: Path, path: Path, cwd: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python with ``path`` first on the import path, in an own home without a Prefect."""
    environment = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    environment |= {"DAYBOOK_HOME": str(home), "PYTHONPATH": str(path)}
    environment["PREFECT_API_URL"] = NOWHERE
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


@pytest.mark.parametrize("each", features(), ids=lambda each: each.name)
def test_a_descriptor_names_objects_that_exist(each: Feature) -> None:
    for commands in each.commands:
        for name in commands.names:
            assert callable(each.load(f"{commands.module}:{name}_"))
    texts = [getattr(each, name) for name in Feature.__dataclass_fields__ if name != "package"]
    paths = [path for path in texts if isinstance(path, str) and path]
    paths += [*each.documents, *each.blocks, *each.retention]
    for path in paths:
        assert each.load(path) is not None
    if each.operations:
        assert each.load_operations(blocking=True).__bases__[1] is each.load(each.operations)


@pytest.mark.slow  # imports all of Daybook
def test_another_distribution_adds_a_feature_and_a_broken_one_is_a_finding(
    tmp_path: Path, daybook_home: Home
) -> None:
    packages = {"greetings": GREETINGS, "rude": RUDE, "unmigrated": UNMIGRATED}
    for package, files in packages.items():
        for name, text in files.items():
            (file := tmp_path / package / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
    installed = tmp_path / "greetings-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n")
    named = {each: f"{each}:FEATURE" for each in packages} | {"taken": "rude:TAKEN"}
    lines = [f"{name} = {value}" for name, value in {**named, "broken": "nowhere:FEATURE"}.items()]
    (installed / "entry_points.txt").write_text("\n".join([f"[{feature.GROUP}]", *lines, ""]))

    done = run("-c", PROGRAM, home=daybook_home.path, path=tmp_path, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    printed, answer = done.stdout.splitlines()
    assert printed == "hello from a command"
    found = json.loads(answer)
    own = [each.name for each in features()]
    assert found.pop("features") == [*own, "greetings", "rude"]
    assert found.pop("links")[-1] == "Greetings"
    (lost,) = found.pop("lost")
    assert lost.startswith("tables of unmigrated: left out, because FileNotFoundError")
    why = dict(each.partition(": left out, because ")[::2] for each in found.pop("findings"))
    assert why.pop("broken").startswith("ModuleNotFoundError")
    assert why == {
        "taken": "ValueError: another feature is called hooks",
        "commands of rude": 'CommandCollisionError: Command "list" already registered.',
        "command list of rude": "AttributeError: module 'rude.commands' has no attribute 'list_'",
        "settings of rude.settings": "timezone: a setting has this name already",
        "loops of rude": "ZeroDivisionError: division by zero",
        "tool cron_list": "a tool has this name already",
    }
    assert found.pop("endpoints") == [
        *(each.name for each in features() if each.endpoint),
        "doorbell",
    ]
    assert found.pop("not served") == "ValueError: '/' cannot be the path of an endpoint"
    assert found == {
        "operation": "hello Ann from an operation",
        "blocking": "hello Bob from an operation",
        "tool": "hello from a tool",
        "tools of agents": ["greet"],
        "metrics": ["daybook_greetings 1.0"],
        "pruned": {each.name: 0 for each in features() if each.retention} | {"greetings": 1},
        "paused": 7,
        "status": {"given": 1},
        "line": "1 given",
        "problems": ["Ann was greeted"],
        "seen": True,
        "resources": "Ann",
        "instructions": [" Greet", " people."],
        "read": "Ann",
        "loop": "greet",
        "setting": "hello",
        "needs": ["Ann waits"],
        "template": "hello from a page",
    }


WITHOUT_FEATURES = """
import contextlib, importlib, io, json, pkgutil
import daybook
from daybook import repository
from daybook.cli.main import main

def command(*typed):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(typed) in (0, 1), typed
    return output.getvalue()

help_ = command("--help", "--all")
added = command("add", "every day at 9:00", "Say hello", "--name", "hello", "--json")
shown = {
    "file": daybook.__file__,
    "help": help_,
    "added": json.loads(added),
    "list": json.loads(command("list", "--json")),
    "doctor": json.loads(command("doctor", "--json")),
    "status": json.loads(command("status", "--json")),
    "prune": json.loads(command("ledger", "prune", "--json")),
}
for name in [each.name for each in pkgutil.walk_packages(daybook.__path__, "daybook.")]:
    if not name.endswith("__main__") and "migrations" not in name:
        importlib.import_module(name)
repository.load_flows()
repository.load_entry_point("blocks/__init__.py")
print(json.dumps(shown))
"""


@pytest.mark.slow  # imports all of Daybook
def test_everything_else_works_without_any_feature(tmp_path: Path, daybook_home: Home) -> None:
    copy = copied_without(features(), tmp_path / "copy")
    done = run("-P", "-c", WITHOUT_FEATURES, home=daybook_home.path, path=copy, cwd=copy)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["file"] == str(copy / "daybook" / "__init__.py")
    words = {line.split()[1] for line in shown["help"].splitlines() if line.startswith("│ ")}
    # Commands without a section are in a group of Daybook's own, which stays.
    commands = [each for of_feature in features() for each in of_feature.commands if each.section]
    assert words.isdisjoint(each.group or each.names[0] for each in commands)
    assert "sync" in words
    assert shown["added"]["name"] == "hello"
    assert [each["name"] for each in shown["list"]] == ["hello"]
    assert [each for each in shown["doctor"] if "check itself failed" in each["title"]] == []
    names = {each.name for each in features()}
    for report in ("status", "prune"):
        assert shown[report] and names.isdisjoint(shown[report])


def test_foreign_settings_that_cannot_be_imported_stop_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    foreign = Feature(package="nowhere", settings="settings:Lost")
    monkeypatch.setattr(feature, "_installed", lambda: (foreign, *OWN))
    monkeypatch.setattr(feature, "failures", {})

    settings.check_features()

    assert feature.failures["settings of nowhere"].startswith("ModuleNotFoundError")
