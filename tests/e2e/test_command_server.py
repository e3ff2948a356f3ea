"""The command server: a command in it has the same result as in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daybook.cli import entry
from daybook.home import Home
from daybook.operations import preload
from tests import rows
from tests.costs import one_in
from tests.e2e.first_light import environment
from tests.servers import NOWHERE

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and other users' ids"),
]

CLIENT = """
import signal, sys
from daybook.cli import entry
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if `nohup` runs the tests
sys.exit(entry.main())
"""
# Without the package that parses a command line, a command can only run in the server. A machine of
# CI may stand still for seconds.
SERVED = """
import signal, sys
sys.modules["cyclopts"] = None
from daybook.cli import entry
entry.ACCEPT_TIMEOUT_SECONDS = 50.0
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(entry.main())
"""
CONFINED = """
import ctypes, os, struct, sys
from daybook.cli import entry
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv.pop(1) == "no new privileges":
    assert libc.prctl(38, 1, 0, 0, 0) == 0
else:
    read_files = struct.pack("=Q", 1 << 2)
    rules = libc.syscall(444, read_files, len(read_files), 0)  # landlock_create_ruleset
    if rules < 0:
        sys.exit("no Landlock")
    if libc.syscall(446, rules, 0) != 0:  # landlock_restrict_self, as an administrator
        libc.prctl(38, 1, 0, 0, 0)
        assert libc.syscall(446, rules, 0) == 0
sys.modules["cyclopts"] = None
entry.ACCEPT_TIMEOUT_SECONDS = 50.0
sys.exit(entry.main())
"""
OWN_PROCESS = """
import sys
from daybook.cli.main import main
sys.exit(main())
"""
# Runs each command of a list in a process of its own, forked from one with the costly imports.
EACH_FORKED = """
import json, os, sys, tempfile
from daybook import home
from daybook.cli.main import main
home.configure_prefect()
import prefect.client.orchestration, daybook.ledger.sqlite, daybook.api.jobs
answers = []
for words in json.loads(sys.argv[1]):
    files = [tempfile.TemporaryFile() for _ in range(2)]
    if (child := os.fork()) == 0:
        sys.argv[1:] = words
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        try:
            code = main()
        except SystemExit as exit:
            code = exit.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in files:
        file.seek(0)
    answers.append([code, *(file.read().decode() for file in files)])
print(json.dumps(answers))
"""
EACH_FORKED_CLIENT = SERVED.partition("sys.exit")[0] + "".join(
    line.replace("from daybook.cli.main import main", "main = entry.main")
    for line in EACH_FORKED.splitlines(keepends=True)
    if not line.startswith(("home.", "import prefect"))
)


@dataclass(frozen=True)
class Server:
    """A running command server; ``package`` is the folder that it imports `daybook` from."""

    home: Home
    process: subprocess.Popen[str]
    package: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client that this server accepts."""
        return environment(self.home.path) | {"PYTHONPATH": str(self.package)}

    def command(self, program: str, *words: str) -> tuple[int, str, str]:
        """Run a command with the program `SERVED` or `OWN_PROCESS`; return code and output."""
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=self.environment,
            cwd=self.home.path,
            input="",
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def request(self, *words: str, **changes: Any) -> dict[str, Any]:
        """Return the request that a client of this home sends for a command."""
        return {
            "arguments": list(words),
            "key": self.home.command_key_file.read_text(),
            "identity": self.identity(),
            "folder": str(self.home.path),
            "umask": 0o077,
            "nice": os.nice(0),
            "ignored_signals": [],
            "environment": self.environment,
            "search_path": sys.path,
            "streams": [["utf-8", "strict", False, False]] * 3,
        } | changes

    def identity(self) -> list[Any]:
        """Return the identity of a client with the environment of this server."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(self.package))
            return entry.identity()

    def connect(self, request: dict[str, Any]) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(self.home.command_socket))
        connection.sendall(json.dumps(request).encode() + b"\n")
        return connection

    @contextmanager
    def waiting_command(self) -> Iterator[tuple[socket.socket, int]]:
        """Start a command that reads its input until the end of the block.

        Yield its connection, and a descriptor that has no other end when the command has ended.
        """
        connection = self.connect(self.request("secrets", "add", "endless"))
        given, keep = os.pipe()
        output, writes = os.pipe()
        with connection, open(keep, "wb"):
            assert int(connection.makefile().readline())
            socket.send_fds(connection, [entry.GO], [given, writes, writes])
            os.close(given)
            os.close(writes)
            yield connection, output


def start(home: Home, package: Path) -> Server:
    # As after `nohup daybook up &`, which ignores two signals.
    program = f"trap '' INT HUP; exec {sys.executable} -P -m daybook.cli.command_server"
    process = subprocess.Popen(
        ["sh", "-c", program],
        env=environment(home.path) | {"PYTHONPATH": str(package)},
        cwd=home.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert "Ready" in process.stdout.readline()
    return Server(home, process, package)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(Home(tmp_path_factory.mktemp("home")).make(), REPOSITORY)
    yield running
    running.process.terminate()
    running.process.communicate()


@pytest.mark.parametrize(
    "typed",
    one_in(
        13,
        [
            "list --json",
            "sync --json",
            "add Hello --every 5 --json",
            "agents list",
            "next --cron @daily --tz UTC",
            "runs no-such-job",
            "status",
            "task add Sweep --json --idempotency-key one",
            "task list --json",
            "tokens list",
            "list --no-such-option",
            "add --help",
            "no-such-command",
        ],
    ),
)
def test_a_command_prints_the_same_in_the_server_as_in_a_process_of_its_own(
    server: Server, typed: str
) -> None:
    own_process = server.command(OWN_PROCESS, *typed.split())
    assert server.command(SERVED, *typed.split()) == own_process
    assert own_process[1] or own_process[2]


DIFFERS = {
    *("edit nothing", "heartbeat on", "task add nothing", "task session register nothing"),
    *("tokens add --owner nothing", "task scheduler pause", "task scheduler status"),
}
"""Commands whose second answer differs, and `edit`, which opens an editor in its own process."""


def _every_command() -> Iterator[str]:
    """Yield each command that the server can run, with a value for each required argument."""
    help_texts = (REPOSITORY / "tests/snapshots/cli-help.txt").read_text()
    for usage in sorted(set(re.findall(r"^Usage: daybook (.+)$", help_texts, re.MULTILINE))):
        words = usage.split()
        if words[-1] == "COMMAND" or words[0] in entry.OWN_PROCESS:
            continue
        if words[1:2] == ["edit"]:  # such as `memory edit`, in a process of its own
            continue
        words = [word for word in words if not word.startswith("[")]
        typed = " ".join("nothing" if word.isupper() else word for word in words)
        yield f"{typed} --no-such-option" if typed in DIFFERS else typed


@pytest.mark.slow
@pytest.mark.timeout(600)  # it runs about 200 commands
def test_every_command_has_the_same_answer_or_error_in_both_processes(server: Server) -> None:
    commands = [typed.split() for typed in _every_command()]
    own_processes, served = (
        json.loads(server.command(program, json.dumps(commands))[1])
        for program in (EACH_FORKED, EACH_FORKED_CLIENT)
    )
    for (words, own_process, answer), checked in rows.each(
        zip(commands, own_processes, served, strict=True)
    ):
        with checked:
            assert answer == own_process, words
            assert own_process[1] or own_process[2]


@pytest.mark.slow
def test_a_command_writes_to_the_terminal_as_in_a_process_of_its_own(server: Server) -> None:
    def output(program: str) -> bytes:
        terminal, slave = pty.openpty()
        client = subprocess.Popen(
            [sys.executable, "-c", program, "add", "--help"],
            env=server.environment | {"COLUMNS": "70", "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        text = b""
        with open(terminal, "rb", buffering=0) as reads:
            try:
                while some := reads.read(1 << 16):
                    text += some
            except OSError:  # the last process with the terminal has ended
                pass
        assert client.wait() == 0
        return text

    own_process = output(OWN_PROCESS)
    assert b"\x1b[" in own_process
    assert output(SERVED) == own_process


def test_the_server_has_one_thread_and_a_socket_for_its_user_only(server: Server) -> None:
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    assert server.home.command_socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "a guess"},
        {"identity": ["0.0.1"]},
        {"environment": {"DAYBOOK_HOME": "/nowhere"}},
        {"environment": {"PREFECT_API_URL": NOWHERE}},
        {"environment": {"PREFECT_CLIENT_MAX_RETRIES": "1"}},
        {"folder": "with settings of Prefect"},
    ],
)
def test_the_server_refuses_a_command_without_its_key_or_that_could_have_another_result(
    server: Server, changes: dict[str, Any], tmp_path: Path
) -> None:
    if "environment" in changes:
        changes = {"environment": server.environment | changes["environment"]}
    if "folder" in changes:
        (tmp_path / "prefect.toml").write_text("[client]\nmax_retries = 1\n")
        changes = {"folder": str(tmp_path)}
    with server.connect(server.request("task", "list", **changes)) as connection:
        assert connection.recv(1) == b""


def test_a_client_that_has_stopped_waiting_starts_no_command(server: Server) -> None:
    with server.connect(server.request("task", "add", "No client waits")) as connection:
        assert int(connection.makefile().readline())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # the child has ended
    assert "No client waits" not in server.command(SERVED, "task", "list")[1]


def test_a_command_runs_with_the_nice_value_of_its_client(server: Server) -> None:
    lowest = os.nice(0) + 5
    with server.connect(server.request("task", "list", nice=lowest)) as connection:
        child = int(connection.makefile().readline())
        assert os.getpriority(os.PRIO_PROCESS, child) == lowest
    done = subprocess.run(
        ["nice", "-n", "5", sys.executable, "-c", SERVED, "list", "--json"],
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_the_command_ends_when_its_client_is_killed(server: Server) -> None:
    with server.waiting_command() as (connection, output), open(output, "rb") as printed:
        connection.close()
        printed.read()


def test_a_signal_reaches_the_command(server: Server) -> None:
    with server.waiting_command() as (connection, output), open(output, "rb"):
        connection.sendall(bytes([signal.SIGINT]))
        assert connection.makefile().readline() == "130\n"


class FakeServer:
    """A server that accepts one request and leaves the rest to the test."""

    def __init__(self, home: Home, *words: str, program: str = SERVED) -> None:
        home.make().command_key_file.write_text("the key of this server")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home.command_socket))
            listener.listen()
            self.client = subprocess.Popen(
                [sys.executable, "-c", program, *words],
                env=environment(home.path),
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-Z stops no process of a group without a parent outside
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.connection, _ = listener.accept()

    def accept(self, child: int | None = None) -> None:
        """Accept the request for the process ``child``; return when the client has sent GO."""
        with self.connection.makefile("rb", buffering=0) as stream:
            assert stream.readline().endswith(b"\n"), self.client.communicate()
        self.connection.sendall(b"%d\n" % (child or os.getpid()))
        assert self.connection.recv(1) == entry.GO  # this closes the descriptors


@pytest.mark.parametrize("number", entry.FORWARDED_SIGNALS)
def test_a_client_forwards_its_signals_and_ends_as_the_command(
    daybook_home: Home, number: signal.Signals
) -> None:
    fake = FakeServer(daybook_home, "list")
    with fake.connection:
        fake.accept()
        fake.client.send_signal(number)
        assert fake.connection.recv(1) == bytes([number])
        fake.connection.sendall(b"130\n")
    fake.client.communicate()
    assert fake.client.returncode == 130


def test_a_client_ends_by_the_signal_that_has_ended_the_command(daybook_home: Home) -> None:
    fake = FakeServer(daybook_home, "list")
    with fake.connection:
        fake.accept()
        fake.client.send_signal(signal.SIGTERM)
        assert fake.connection.recv(1) == bytes([signal.SIGTERM])
    fake.client.communicate()
    assert fake.client.returncode == -signal.SIGTERM


def test_a_client_reports_that_the_server_has_ended_during_the_command(daybook_home: Home) -> None:
    fake = FakeServer(daybook_home, "list", "--json", program=CLIENT)
    with fake.connection:
        fake.accept()
    printed, errors = fake.client.communicate()
    assert fake.client.returncode == 1
    assert json.loads(printed)["error"]["message"] in errors
    assert "ended early" in errors


def test_a_client_does_the_work_itself_if_the_server_does_not_answer(daybook_home: Home) -> None:
    fake = FakeServer(daybook_home, "list", "--json", program=CLIENT)
    with fake.connection:
        printed, _ = fake.client.communicate()
        assert fake.client.returncode == 0
        assert json.loads(printed) == []


def test_a_connection_of_another_user_or_container_is_no_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = socket.socketpair()
    with first, second:
        assert entry.peer_pid(first) == os.getpid()
        monkeypatch.setattr(os, "getuid", lambda: 12_345)
        assert entry.peer_pid(first) == 0


@pytest.mark.parametrize(
    "typed",
    [
        "secrets add x 3<&0 <&-",
        "list >&-",
        "list --json 2>&-",
        "task add T --instructions @<(echo)",
    ],
)
def test_a_command_that_needs_its_own_process_gets_it(server: Server, typed: str) -> None:
    command = f"exec {sys.executable} -c '{SERVED}' {typed}"
    done = subprocess.run(
        ["bash", "-c", command], env=server.environment, capture_output=True, check=False
    )
    assert done.returncode == 1  # this client cannot run it itself
    if "2>&-" not in typed:
        assert b"cyclopts" in done.stderr


@pytest.mark.slow
def test_a_client_that_sees_other_files_runs_its_command_itself(server: Server) -> None:
    words = ["unshare", "--mount", sys.executable, "-c", SERVED, "list"]
    done = subprocess.run(
        words, env=server.environment, capture_output=True, text=True, check=False
    )
    if "unshare failed" in done.stderr:
        pytest.skip("this system allows no mount namespaces")
    assert "cyclopts" in done.stderr


@pytest.mark.parametrize("how", ["no new privileges", "Landlock"])
def test_the_server_runs_no_command_of_a_confined_process(server: Server, how: str) -> None:
    assert server.command(SERVED, "list", "--json") == (0, "[]\n", "")
    code, output, errors = server.command(CONFINED, how, "list", "--json")
    if "no Landlock" in errors:
        pytest.skip("this kernel has no Landlock")
    assert (code, output) == (1, "")


def test_an_error_outside_of_the_command_line_has_its_exit_code(server: Server) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SERVED, "list", "--json"],
            env=server.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "ended early" not in done.stderr


@pytest.mark.slow
def test_the_server_lets_a_running_command_end(tmp_path: Path) -> None:
    running = start(Home(tmp_path / "home").make(), REPOSITORY)
    with running.waiting_command() as (connection, output), open(output, "rb"):
        running.process.send_signal(signal.SIGTERM)
        # The server is no longer served by its loop, and the command still gets its signals.
        connection.sendall(bytes([signal.SIGINT]))
        assert connection.makefile().readline() == "130\n"
    assert running.process.communicate()[0] == ""
    assert running.process.returncode == 0


@pytest.mark.slow
def test_ctrl_z_stops_a_command_until_it_continues(daybook_home: Home) -> None:
    command = subprocess.Popen(["sleep", "1000"])
    fake = FakeServer(daybook_home, "list")
    with fake.connection:
        fake.accept(command.pid)
        fake.client.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(command.pid, os.WUNTRACED)[1])
        assert os.WIFSTOPPED(os.waitpid(fake.client.pid, os.WUNTRACED)[1])
        fake.client.send_signal(signal.SIGCONT)
        assert os.WIFCONTINUED(os.waitpid(command.pid, os.WCONTINUED)[1])
        fake.connection.sendall(b"0\n")
    fake.client.communicate()
    command.kill()
    command.wait()
    assert fake.client.returncode == 0


@pytest.mark.slow
def test_the_processes_of_up_share_no_library_of_the_mcp_server_and_of_migrations(
    tmp_path: Path,
) -> None:
    """All processes of an idle `up` would have them in their memory."""
    program = (
        "import sys; from daybook import home; home.configure_prefect();"
        " from daybook.operations import preload; preload.import_commands();"
        " print(sorted({'mcp', 'alembic'} & set(sys.modules)), 'daybook.cli.jobs' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    variables = os.environ | {"DAYBOOK_HOME": str(tmp_path)}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert ended.stdout == "[] True\n"


def test_a_change_of_any_python_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "inner" / "__pycache__").mkdir(parents=True)
    for name in ("inner/module.py", "inner/__pycache__/module.py", "text.md"):
        (tmp_path / name).touch()
    before = preload.code_fingerprint(tmp_path)
    os.utime(tmp_path / "inner/__pycache__/module.py")
    os.utime(tmp_path / "text.md")
    assert preload.code_fingerprint(tmp_path) == before
    os.utime(tmp_path / "inner/module.py")
    changed = preload.code_fingerprint(tmp_path)
    assert changed != before
    (tmp_path / "inner/older.py").touch()
    os.utime(tmp_path / "inner/older.py", ns=(1, 1))
    assert preload.code_fingerprint(tmp_path) != changed


@pytest.mark.slow
def test_the_server_starts_again_when_its_package_has_changed(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "daybook", tmp_path / "code" / "daybook")
    running = start(Home(tmp_path / "home").make(), tmp_path / "code")
    assert running.command(SERVED, "tokens", "list")[0] == 0
    os.utime(tmp_path / "code/daybook/clock.py")
    assert "cyclopts" in running.command(SERVED, "tokens", "list")[2]
    assert running.process.stdout is not None
    assert "have changed" in running.process.stdout.readline()
    assert "Ready" in running.process.stdout.readline()
    assert running.command(SERVED, "tokens", "list")[0] == 0
    running.process.terminate()
    running.process.communicate()
