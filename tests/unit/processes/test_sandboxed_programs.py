"""Programs that work in a sandbox, and how a sandbox ends."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.http.guard import AllowedHosts, Guard, Rule
from daybook.http.host_proxy import HostProxy
from daybook.policies.sandboxes import HostPattern
from daybook.processes.sandboxes import bubblewrap, mounts
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable
from daybook.processes.sandboxes.mounts import SandboxLevel
from daybook.processes.sandboxes.sandbox import Sandbox, SandboxLimits
from tests import receiver
from tests.unit.http.tricks import Dns
from tests.unit.processes.sandboxed import needs_bubblewrap, run, shell
from tests.waiting import becomes_true

pytestmark = [pytest.mark.anyio, needs_bubblewrap]

WORKSPACE = Sandbox(SandboxLevel.WORKSPACE)
STRICT = Sandbox(SandboxLevel.STRICT)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a work directory inside Daybook's home."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "user" / ".daybook"))
    work = tmp_path / "user" / ".daybook" / "worktrees" / "run" / "work"
    work.mkdir(parents=True)
    return work


@pytest.mark.parametrize("level", SandboxLevel)
async def test_a_program_gets_its_environment_and_folders(work: Path, level: SandboxLevel) -> None:
    script = 'pwd; echo "$WORD"; echo "$TMPDIR"; ls -A ~; ls -A /tmp; env | wc -l; touch new ~/new'
    done = await shell(Sandbox(level), script, work, WORD="ä b", TMPDIR="/elsewhere")
    home = Path(os.environ["HOME"])
    below_tmp = [home.parts[2]] if home.parts[1] == "tmp" else []
    # The shell adds PWD to PATH, HOME, WORD and TMPDIR.
    assert done.lines == [str(work), "ä b", "/tmp", ".daybook", *below_tmp, "5"]
    assert (work / "new").exists()
    assert os.listdir(home) == [".daybook"]


async def test_the_system_ends_a_sandbox_before_other_programs(work: Path) -> None:
    assert (await shell(WORKSPACE, "cat /proc/self/oom_score_adj", work)).lines == ["500"]


async def test_the_exit_code_is_that_of_the_program(work: Path) -> None:
    assert (await shell(STRICT, "exit 3", work)).result.code == 3
    assert (await shell(STRICT, "kill -9 $$", work)).result.code == 128 + signal.SIGKILL


async def test_a_folder_deeper_inside_counts_more(work: Path) -> None:
    read_only, written = work / "data", work / "data" / "cache"
    written.mkdir(parents=True)
    sandbox = Sandbox(SandboxLevel.STRICT, readable=(str(read_only),), writable=(str(written),))
    script = "echo 1 > data/no; echo 2 > data/cache/yes; echo 3 > yes; mv data moved; ls -R"
    result = (await shell(sandbox, script, work)).result
    assert result.errors.decode().count("Read-only file system") == 1
    assert (written / "yes").exists() and (work / "yes").exists()
    assert not (read_only / "no").exists() and not (work / "moved").exists()


async def test_a_named_link_is_shown(work: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "versions" / "2", tmp_path / "current"
    real.mkdir(parents=True)
    (real / "tool").write_text("#!/bin/sh\necho it runs\n")
    (real / "tool").chmod(0o755)
    link.symlink_to(real)
    sandbox = Sandbox(SandboxLevel.STRICT, readable=(str(link),))
    assert (await run(sandbox, [f"{link}/tool"], work)).lines == ["it runs"]
    with pytest.raises(
        InvalidInput, match=r"tool is not visible.*-readable .*/current --sandbox-readable .*/2 to"
    ):
        await run(STRICT, [f"{link}/tool"], work)


async def test_a_program_that_cannot_be_started_is_an_error(work: Path) -> None:
    (work / "broken").write_text("#!/nowhere/interpreter\n")
    (work / "broken").chmod(0o755)
    for name in ("no-such-program", "./broken"):
        with pytest.raises(FileNotFoundError):
            await run(WORKSPACE, [name], work)


async def test_a_sandbox_that_cannot_be_built_is_an_error(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap, "ISOLATION", ("--no-such-option",))
    with pytest.raises(SandboxUnavailable, match="Unknown option --no-such-option"):
        await shell(WORKSPACE, "touch ran", work)
    assert not (work / "ran").exists()


# --- the end


async def test_a_daemon_ends_with_the_program(work: Path) -> None:
    daemon = "import os, signal\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n"
    daemon += "  open('pid', 'w').write(open('/proc/self/stat').read())\n  signal.pause()\n"
    daemon += "else:\n while not os.path.exists('pid'): pass\n"
    (work / "daemon.py").write_text(daemon)
    mark = f"{work}/daemon.py"
    await run(WORKSPACE, [mounts.interpreter(), "-I", mark], work)
    assert (work / "pid").exists()
    assert not running_with(mark)


async def test_a_program_ends_gracefully(work: Path) -> None:
    script = 'trap "echo saved > state; exit 0" TERM; touch ready; while :; do sleep 0.01; done'
    task = asyncio.create_task(shell(WORKSPACE, script, work))
    await appears(work / "ready")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (work / "state").read_text() == "saved\n"


async def test_a_program_that_ignores_sigterm_is_killed(work: Path) -> None:
    mark = f"{work}/marked"
    script = f'trap "" TERM; sh -c "touch ready; while :; do sleep 0.1; done" {mark}'
    task = asyncio.create_task(run(WORKSPACE, ["sh", "-c", script], work, grace_seconds=0.1))
    await appears(work / "ready")
    assert running_with(mark)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running_with(mark)


async def test_the_sandbox_ends_with_its_worker(work: Path) -> None:
    mark = f"{work}/marked"
    worker = (
        "import asyncio, os, sys; from pathlib import Path; "
        "from tests.unit.processes import sandboxed; "
        "from daybook.processes.sandboxes.sandbox import Sandbox, SandboxLevel; "
        "script = 'setsid sh -c \"touch ready; while :; do sleep 0.1; done\" $0 & wait'; "
        "program = ['sh', '-c', script, sys.argv[1]]; "
        "sandbox = Sandbox(SandboxLevel.WORKSPACE); "
        "asyncio.run(sandboxed.run(sandbox, program, Path(sys.argv[2])))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", worker, mark, str(work))
    await appears(work / "ready")
    assert running_with(mark)
    process.kill()
    await process.wait()

    async def ended() -> bool:
        return not running_with(mark)

    assert await becomes_true(ended, within=10)


async def test_a_fork_bomb_gets_no_more_processes_than_allowed(work: Path) -> None:
    # The bomb of each of its processes ends after some forks, in case that the limit fails.
    bomb = "import os\nfor _ in range(9):\n try: os.fork()\n except OSError as e: print(e.errno)\n"
    sandbox = Sandbox(SandboxLevel.STRICT, limits=SandboxLimits(processes=30))
    done = await run(sandbox, [mounts.interpreter(), "-c", bomb], work)
    assert str(errno.EAGAIN) in done.lines
    assert not running_with(bomb)


async def test_the_memory_of_all_processes_is_limited(work: Path) -> None:
    limits = SandboxLimits(memory_bytes=100 * 2**20)
    eater = "import os, signal\nfor _ in range(4): os.fork()\n"
    eater += "x = bytearray(20 * 2**20)\nsignal.pause()"
    sandbox = Sandbox(SandboxLevel.STRICT, limits=limits)
    done = await run(sandbox, [mounts.interpreter(), "-c", eater], work)
    assert done.exceeded == "it used more than 100 MiB of memory"
    assert not running_with(eater)


async def test_a_full_disk_ends_the_sandbox(work: Path) -> None:
    disk = os.statvfs(work)
    limits = SandboxLimits(free_bytes=disk.f_blocks * disk.f_frsize + 1)
    done = await shell(Sandbox(SandboxLevel.WORKSPACE, limits=limits), "sleep 100", work)
    assert "the disk of its work directory had less than" in done.exceeded


# --- a list of hosts


def proxy(*hosts: str, **answers: str) -> HostProxy:
    """Return a proxy whose guard knows the names, and may reach the test's servers."""
    dns = Dns({name.replace("_", "."): ((address,),) for name, address in answers.items()})
    guard = Guard(Rule.AGENT, AllowedHosts.parse("127.0.0.0/8"), dns)
    return HostProxy(tuple(map(HostPattern.parse, hosts)), guard)


CLIENT = """
import sys
from urllib.request import ProxyHandler, build_opener, urlopen
direct = build_opener(ProxyHandler({})).open
for open_url, start, path in (
    (urlopen, "http://listed.test", "/a"),
    (urlopen, "http://other.test", "/b"),
    (urlopen, "https://other.test", "/c"),
    (direct, "http://127.0.0.1", "/d"),
):
    try:
        print(open_url(f"{start}:{sys.argv[1]}{path}").read().decode())
    except OSError as error:
        print(error)
"""


async def test_only_the_hosts_of_the_list_are_reached(work: Path) -> None:
    async with receiver.serving() as server:
        server.steps = [receiver.answer(200, b"hello")]
        way_out = proxy(f"listed.test:{server.port}", listed_test="127.0.0.1")
        sandbox = Sandbox(SandboxLevel.WORKSPACE, network=way_out)
        done = await run(sandbox, [mounts.interpreter(), "-c", CLIENT, str(server.port)], work)
    assert [each.path for each in server.requests] == ["/a"]
    assert done.lines == [
        "hello",
        "HTTP Error 403: Forbidden",
        "<urlopen error Tunnel connection failed: 403 Forbidden>",
        "<urlopen error [Errno 111] Connection refused>",
    ]
    assert way_out.refused == {f"other.test:{server.port}": "it is not in the list of hosts"}


# --- programs of developers


async def test_git_works_in_a_clone_that_borrows_objects(work: Path) -> None:
    home = Path(os.environ["DAYBOOK_HOME"])
    store = home / "repositories" / "name" / "store.git"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    commands = [
        [*git, "init", "--quiet", "--bare", str(store)],
        [*git, "clone", "--quiet", "--shared", str(store), str(work)],
    ]
    seed = work.parent / "seed"
    for command in (
        commands[0],
        [*git, "init", "--quiet", str(seed)],
        [*git, "-C", str(seed), "commit", "--quiet", "--allow-empty", "-m", "first"],
        [*git, "-C", str(seed), "push", "--quiet", str(store), "HEAD:main"],
        commands[1],
    ):
        subprocess.run(command, check=True, capture_output=True)  # noqa: ASYNC221
    assert (work / ".git/objects/info/alternates").exists()
    sandbox = Sandbox(SandboxLevel.STRICT, readable=(str(store / "objects"),))
    script = "echo 1 > file && git add file && git commit --quiet -m second && git log --format=%s"
    kinds = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    names = {f"GIT_{kind}": "a" for kind in kinds}
    assert (await shell(sandbox, script, work, **names)).lines == ["second", "first"]
    script = "touch $STORE/objects/new || git -C $STORE log || ls $STORE"
    result = (await shell(sandbox, script, work, STORE=str(store))).result
    assert result.output.decode().split() == ["objects"]
    assert not (store / "objects/new").exists()


async def appears(path: Path) -> None:
    async def exists() -> bool:
        return path.name in os.listdir(path.parent)

    assert await becomes_true(exists, within=30)


def running_with(argument: str) -> list[str]:
    """Return the processes of this machine that have the argument."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in arguments:
            found.append(each)
    return found


async def test_only_in_a_named_folder_a_program_replaces_a_file(work: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "settings.json", tmp_path / "login"
    folder.mkdir()
    for each in (file, folder / "settings.json"):
        each.write_text("old")
    sandbox = Sandbox(SandboxLevel.WORKSPACE, writable=(str(file), str(folder)))
    script = (
        f"cd {tmp_path}; for each in . login; do echo new > new; mv new $each/settings.json; done"
    )
    result = (await shell(sandbox, script, work)).result
    assert "Device or resource busy" in result.errors.decode()
    assert (file.read_text(), (folder / "settings.json").read_text()) == ("old", "new\n")
