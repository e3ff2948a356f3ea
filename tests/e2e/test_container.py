"""The container of `Containerfile` without a container engine: its lines, in plain namespaces.

The root file system is read-only but for the volume and `/tmp`, and all processes have another user
than root and no capabilities. The interpreter and Daybook are those of this environment, in place
of `/opt/daybook`.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from daybook.processes import proc
from tests.e2e.test_wheel import REPOSITORY
from tests.namespaces import needs_namespaces

VISIT = """
import http.cookiejar, sys, urllib.request
jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
opener = urllib.request.build_opener(jar)
opener.open(sys.argv[1])
print(opener.open(sys.argv[2]).read().decode())
"""
"""Program that opens a link with cookies, and then prints another page."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_namespaces,
]


def _lines(name: str) -> list[str]:
    """Return the arguments of an instruction of the last stage of the Containerfile."""
    text = (REPOSITORY / "Containerfile").read_text().replace("\\\n", " ")
    last_stage = text[text.rindex("\nFROM ") :]
    return [each.strip() for each in re.findall(rf"^{name} (.*)$", last_stage, re.MULTILINE)]


def _command(text: str) -> list[str]:
    return [str(each) for each in json.loads(text)]


class Container:
    """One running container, whose volume is the folder ``volume``."""

    def __init__(
        self, folder: Path, command: list[str] | None = None, variables: Sequence[str] = ()
    ) -> None:
        self.log = folder / "log"
        (uid, _) = _lines("USER")[0].split(":")
        self._uid = int(uid)
        (volume,) = _lines("VOLUME")
        self.volume = folder / "volume"
        self.volume.mkdir(exist_ok=True)
        os.chown(self.volume, self._uid, self._uid)
        self.volume.chmod(0o700)
        assert volume == _lines("WORKDIR")[0] == "/data"
        (root := folder / "root").mkdir(exist_ok=True)
        (environment,) = _lines("ENV")
        self._environment = environment.replace("/opt/daybook", sys.prefix).split()
        self._environment += variables
        entry, default = _command(_lines("ENTRYPOINT")[0]), _command(_lines("CMD")[0])
        program = self._program([*entry, *(default if command is None else command)])
        paths = ":".join([sys.base_prefix, str(REPOSITORY), sys.prefix])
        namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--net"]
        script = ["sh", str(REPOSITORY / "tests" / "container.sh")]
        with self.log.open("wb") as log:
            self._unshare = subprocess.Popen(
                [*namespaces, *script, str(root), str(self.volume), paths, uid, *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _program(self, words: list[str]) -> list[str]:
        no_agents = f"_DAYBOOK_MACHINE={os.environ['_DAYBOOK_MACHINE']}"
        return [
            "env",
            "-i",
            *self._environment,
            no_agents,
            "sh",
            "-c",
            'cd /data && exec "$@"',
            "sh",
            *words,
        ]

    @property
    def pid(self) -> int:
        """The pid of its process 1, outside of it."""
        (pid,) = (
            Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        )
        return int(pid)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as `podman exec` does."""
        enter = ["nsenter", f"--target={self.pid}", "--all", f"--root=/proc/{self.pid}/root"]
        rights = ["setpriv", f"--reuid={self._uid}", f"--regid={self._uid}", "--clear-groups"]
        rights += ["--no-new-privs", "--bounding-set=-all"]
        command = [*enter, *rights, *self._program(list(words))]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def is_healthy(self) -> bool:
        (check,) = _lines("HEALTHCHECK")
        return self.run(*_command(check[check.index("[") :])).returncode == 0

    def until_logged(self, text: str, within: float) -> None:
        end = time.monotonic() + within
        watched = os.pidfd_open(self._unshare.pid)
        while text not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            ended, _, _ = select.select([watched], [], [], 0.2)
            assert not ended, self.log.read_text()

    def stop(self, number: int, within: float) -> int:
        """Send a signal to process 1, as `podman stop` does; return the exit code."""
        os.kill(self.pid, number)
        return self._unshare.wait(within)

    def end(self) -> None:
        if self._unshare.poll() is None:
            self._unshare.kill()
            self._unshare.wait()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    tmp_path.chmod(0o755)
    started = Container(tmp_path)
    yield started
    started.end()


def test_a_container_runs_jobs_without_rights_and_stops_cleanly(container: Container) -> None:
    container.until_logged("Ready", within=240)
    container.until_logged("first-light: succeeded", within=120)
    assert container.is_healthy()

    status = Path(f"/proc/{container.pid}/status").read_text()
    for line in (r"Uid:\t10001\t10001", r"CapEff:\t0+\n", r"CapBnd:\t0+\n", r"NoNewPrivs:\t1"):
        assert re.search(line, status)
    for folder in ("/", "/etc", "/usr", sys.prefix, str(REPOSITORY)):
        refused = container.run("touch", f"{folder}/probe")
        assert (refused.returncode, "Read-only" in refused.stderr) == (1, True), folder
    (added,) = [
        json.loads(
            container.run(
                "daybook", "add", "What is new?", "--at", "in 5s", "--name", "soon", "--json"
            ).stdout
        )
    ]
    assert added["name"] == "soon"
    container.until_logged("soon: succeeded", within=120)
    # Nothing listens for others.
    listeners = container.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()
    listening = [line.split()[1] for line in listeners if line.split()[3] == "0A"]
    assert listening
    assert all(address.startswith("0100007F:") for address in listening)

    children = json.loads((container.volume / "up.json").read_text())["children"]
    assert {each["name"] for each in children} >= {"server", "worker", "web"}
    pid = container.pid
    assert container.stop(signal.SIGTERM, within=90) == 0
    assert proc.find(pid) is None
    assert "Stopped" in container.log.read_text()
    assert not (container.volume / "up.json").exists()


def test_a_container_that_was_killed_continues_with_its_volume(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    first = Container(tmp_path)
    try:
        first.until_logged("first-light: succeeded", within=240)
        assert first.stop(signal.SIGKILL, within=30) != 0
    finally:
        first.end()
    again = Container(tmp_path)
    try:
        again.until_logged("Ready", within=240)
        (run,) = json.loads(again.run("daybook", "runs", "first-light", "--json").stdout)
        assert run["status"] == "succeeded"
        assert again.stop(signal.SIGINT, within=90) == 0
    finally:
        again.end()


def test_a_container_ends_with_the_exit_code_of_its_command(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    container = Container(tmp_path, ["show", "absent"])
    try:
        assert container._unshare.wait(60) == 3
    finally:
        container.end()


def test_the_link_from_inside_opens_pages_that_listen_on_all_addresses(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    public = "http://localhost:4280"
    variables = ("DAYBOOK_WEB_HOST=0.0.0.0", f"DAYBOOK_PUBLIC_URL={public}")
    container = Container(tmp_path, variables=variables)
    try:
        container.until_logged("Ready", within=240)
        opened = container.run("daybook", "open", "--no-browser")
        (link,) = [each for each in opened.stdout.split() if each.startswith("http")]
        assert link.startswith(public)
        visited = container.run(sys.executable, "-c", VISIT, link, f"{public}/jobs")
        assert visited.returncode == 0, visited.stderr
        assert "Log out" in visited.stdout
        listeners = container.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()
        others = {line.split()[1] for line in listeners if line.split()[3] == "0A"}
        assert {each for each in others if not each.startswith("0100007F:")} == {
            f"00000000:{4280:04X}"
        }
        assert container.stop(signal.SIGTERM, within=90) == 0
    finally:
        container.end()
