"""Forks of an image: what they inherit, how they end, and the death of the image or its client.

A program of each test forks the image, because a test process has threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an image forks only on Linux")

PROGRAM = """
import asyncio, builtins, json, os, signal, sys
from pathlib import Path
from daybook.processes import children, group, image

updates = builtins.updates = []
os.environ["OWN"] = "1"
forked = image.fork(lambda: updates.append(os.environ.get("WHO", "")))
output = os.open("output", os.O_RDWR | os.O_CREAT | os.O_APPEND)

async def start(*arguments, who="child", descriptors=(), function=None):
    command = [*image.PYTHON_MODULE, "started", *map(str, arguments)]
    return await (function or forked.start)(
        command,
        environment={"WHO": who, "PYTHONPATH": os.environ["PYTHONPATH"]},
        folder=Path("/"),
        output=output,
        descriptors=descriptors,
    )
"""
STARTED = """
import json, os, signal, sys, time
import __main__
print(json.dumps({
    "arguments": sys.argv[1:], "who": os.environ.get("WHO"), "own": os.environ.get("OWN"),
    "folder": os.getcwd(), "leads": os.getsid(0) == os.getpid(), "module": __name__,
    "open": [each for each in range(200) if os.path.exists(f"/proc/self/fd/{each}")],
    "inherited": "json" in sys.modules and "daybook.processes.image" in sys.modules,
}))
match sys.argv[1]:
    case "exit": sys.exit(int(sys.argv[2]))
    case "kill": os.kill(os.getpid(), signal.SIGKILL)
    case "wait": os.read(int(sys.argv[2]), 1)
"""


def run(folder: Path, program: str, before: str = "") -> tuple[Any, list[Any]]:
    """Run a client; return what it prints as JSON, and what its children printed.

    ``before`` runs before the fork of the image.
    """
    (folder / "started.py").write_text(STARTED)
    package = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-P", "-c", before + PROGRAM + program],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "output").read_text().splitlines()
    return json.loads(done.stdout), [json.loads(line) for line in lines]


def test_a_fork_is_like_a_new_interpreter_with_the_modules_of_the_image(tmp_path: Path) -> None:
    codes, printed = run(
        tmp_path,
        """
reader, writer = os.pipe()
async def main():
    exits = await start("exit", 7)
    killed = await start("kill")
    waits = await start("wait", reader, descriptors=[reader])
    new = await start("exit", 8, function=children.start_session)
    codes = [await exits.wait(), await killed.wait(), waits.returncode, await new.wait()]
    os.write(writer, b"x")
    codes.append(await waits.wait())
    print(json.dumps(codes))
asyncio.run(main())
""",
    )

    assert codes == [7, -9, None, 8, 0]
    forked = next(each for each in printed if each["arguments"] == ["exit", "7"])
    expected = {"who": "child", "own": None, "folder": "/", "leads": True, "module": "__main__"}
    assert {name: forked[name] for name in expected} == expected
    assert forked["open"] == [0, 1, 2] and forked["inherited"]
    waiting = next(each for each in printed if each["arguments"][0] == "wait")
    assert waiting["open"] == [0, 1, 2, int(waiting["arguments"][1])]
    fresh = [each for each in printed if not each["inherited"]]
    assert len(fresh) == 1 and fresh[0]["arguments"] == ["exit", "8"]


def test_the_modules_are_updated_in_a_child_and_in_an_image_that_adopts(tmp_path: Path) -> None:
    (tmp_path / "updates.py").write_text(
        "import builtins, json; from daybook.processes import image\n"
        "image.update_environment({'WHO': 'added later'}); print(json.dumps(builtins.updates))"
    )
    _, printed = run(
        tmp_path,
        """
async def main():
    await forked.adopt({"WHO": "adopted", "PYTHONPATH": os.environ["PYTHONPATH"]})
    command = [*image.PYTHON_MODULE, "updates"]
    child = await forked.start(
        command, environment={"WHO": "child"}, folder=Path("/"), output=output
    )
    await child.wait()
    print(json.dumps(updates))
asyncio.run(main())
""",
    )

    assert printed == [["adopted", "child", "added later"]]


def test_a_child_survives_its_image_and_the_next_is_a_new_interpreter(tmp_path: Path) -> None:
    found, printed = run(
        tmp_path,
        """
reader, writer = os.pipe()
async def main():
    child = await start("wait", reader, descriptors=[reader])
    os.kill(forked.pid, signal.SIGKILL)
    try:
        await start("exit", 0)
        refused = False
    except OSError:
        refused = True
    new = await children.start_session(
        [*image.PYTHON_MODULE, "started", "exit", "3"],
        environment={"PYTHONPATH": os.environ["PYTHONPATH"]},
        folder=Path("/"), output=output, forked_from=forked,
    )
    found = [refused, await new.wait(), child.returncode]
    os.write(writer, b"x")
    code = group.describe_exit(await child.wait())
    print(json.dumps([*found, code, Path(f"/proc/{forked.pid}").exists()]))
    forked.close()
asyncio.run(main())
""",
    )

    is_zombie = False
    assert found == [True, 3, None, "ended with an unknown exit code", is_zombie]
    assert [each["inherited"] for each in printed] == [True, False]


def test_an_image_that_is_stopped_starts_nothing_also_when_it_continues(tmp_path: Path) -> None:
    found, printed = run(
        tmp_path,
        """
async def main():
    os.kill(forked.pid, signal.SIGSTOP)
    image._ANSWER_TIMEOUT_SECONDS = 0.05
    try:
        await start("exit", 0)
    except OSError as error:
        found = type(error).__name__
    image._ANSWER_TIMEOUT_SECONDS = 60.0
    os.kill(forked.pid, signal.SIGCONT)
    print(json.dumps([found, await (await start("exit", 3)).wait()]))
asyncio.run(main())
""",
    )

    assert found == ["TimeoutError", 3]
    assert [each["arguments"] for each in printed] == [["exit", "3"]]


def test_an_image_ends_with_its_client_and_a_child_without_go_does_nothing(tmp_path: Path) -> None:
    ended, printed = run(
        tmp_path,
        """
import select
async def main():
    request = {
        "arguments": ["started", "exit", "0"], "environment": {}, "folder": "/", "descriptors": []
    }
    _, _, writer = await forked._send(request, [output])
    writer.close()  # before GO
    await writer.wait_closed()
    image_end = os.pidfd_open(forked.pid)
    forked._requests.close()
    ready, _, _ = select.select([image_end], [], [], 30)
    print(json.dumps(bool(ready)))
asyncio.run(main())
""",
    )

    assert ended is True
    assert printed == []


def test_a_fork_needs_only_few_open_files(tmp_path: Path) -> None:
    """Of macOS and of some shells; a container may have it as its hard limit."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
    code, [printed] = run(
        tmp_path,
        """
async def main():
    child = await start("exit", 7)
    print(await child.wait())
asyncio.run(main())
""",
        limit,
    )
    assert (code, printed["inherited"]) == (7, True)
