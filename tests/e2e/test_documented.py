"""Run every console, bash and Python block of README.md and of the guides, page by page, in order.

The reader has one terminal and a running Daybook, set up as README says. Blocks of a page share a
shell, so a later block can use variables and files of an earlier one. Only hosts outside of this
machine are replaced: servers of this test stand for the hosts under example.org and the models'
APIs. `make up` and the wheel's installation are skipped, because CI and other tests run them.

A line that a block shows below a command has to be in the command's output; `…` matches any
text, and identifiers, instants and durations may differ.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from daybook.cli.main import EXIT_INTERRUPTED
from daybook.home import Home
from tests import providers
from tests.conftest import REPOSITORY
from tests.e2e.first_light import Up, environment
from tests.servers import migrate

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]

# The other pages use the jobs and files of these.
FIRST = [
    *("README.md", "docs/quickstart.md", "docs/guides/agents.md", "docs/guides/jobs.md"),
    "docs/operations/running.md",
]
OTHERS = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md")}
OTHERS -= {"docs/guides/recipes.md"}  # each begins with an empty home: `test_recipes.py`
PAGES = [*FIRST, *sorted(OTHERS - set(FIRST))]

# Replacements by whole command: steps that this module's setup or another test runs.
DONE_ELSEWHERE = {
    "make up": 'ln -s "$PREPARED_VENV" .venv',  # the `up` of this module; CI runs `make up`
}
# These end at Ctrl-C, which the test sends after the command has printed an address.
UNTIL_INTERRUPTED = ("daybook mcp --http", "daybook web")

# Values that may differ between the page and the output.
VARIABLE = re.compile(
    r"\b[0-9a-f]{8}(?:[0-9a-f]{24})?\b|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?|\d+(?:\.\d+)? s\b"
)


@dataclass(frozen=True)
class Step:
    """One command or program of a page; ``shown`` are lines that its output has to contain."""

    where: str
    command: str
    shown: list[str] = field(default_factory=list)


def steps_of(page: str, text: str = "") -> Iterator[Step]:
    """Yield the steps that a reader of the page runs, or of its part ``text``, in their order."""
    text = text or (REPOSITORY / page).read_text()
    fences = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    for number, fence in enumerate(fences.finditer(text)):
        indent, language, block = fence.groups()
        where = f"{page}:{text.count(chr(10), 0, fence.start()) + 1}"
        lines = [line.removeprefix(indent) for line in block.splitlines()]
        if language == "console":
            yield from _commands(where, lines)
        elif language in ("python", "bash"):
            named = re.match(r"# (\w+/\w+\.py)$", lines[0])
            path = named[1] if named else f"block-{number}.{language}"
            write = f"mkdir -p $(dirname {path}) && cat > {path} <<'END OF BLOCK'\n"
            write += "\n".join([*lines, "END OF BLOCK"])
            run = f"python -c 'import {path[:-3].replace('/', '.')}'" if named else None
            yield Step(where, f"{write}\n{run or f'{language} {path}'}")


def _commands(where: str, lines: list[str]) -> Iterator[Step]:
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    assert starts[:1] == [0], f"{where}: a console block begins with a command"
    for start, end in pairwise([*starts, len(lines)]):
        last = start
        while lines[last].endswith("\\"):
            last += 1
        command = "\n".join(lines[start : last + 1]).removeprefix("$ ")
        yield Step(where, command, [line for line in lines[last + 1 : end] if line.strip(" …")])


@dataclass(frozen=True)
class Reader:
    """A person at a terminal, in the folder of the clone."""

    folder: Path
    environment: dict[str, str]
    replaced: dict[str, str]

    def run(self, steps: list[Step]) -> list[str]:
        """Run the steps in one shell and return their outputs; assert that each succeeds."""
        script = ["set -u"]
        for step in steps:
            command = step.command
            for pattern, replacement in self.replaced.items():
                command = re.sub(pattern, replacement, command)
            bare = command.partition(" #")[0].strip()
            command = DONE_ELSEWHERE.get(bare, command)
            if bare in UNTIL_INTERRUPTED:
                command = f"python {__file__} {bare}"
            script += [f'{{ {command}\n}} < "$FILES/stdin.txt"', 'printf "\\036%s\\n" $?']
        (self.folder / "page.sh").write_text("\n".join(script) + "\n")
        done = subprocess.run(
            ["bash", "page.sh"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        outputs = []
        ran = re.findall(r"(.*?)\x1e(\d+)\n", done.stdout, re.DOTALL)
        for step, (printed, code) in zip(steps, ran, strict=True):
            assert code == "0", f"{step.where}: exit code {code} of\n{step.command}\n{printed}"
            outputs.append(printed)
        return outputs


@contextmanager
def servers() -> Iterator[list[str]]:
    """Start the servers that the examples call; yield host and port of HTTP, and of mail."""
    address = ("127.0.0.1", 0)
    with socket.create_server(address) as http, socket.create_server(address) as mail:
        numbers = [http.fileno(), mail.fileno()]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.documented_servers", *map(str, numbers)],
            pass_fds=numbers,
            cwd=REPOSITORY,
        )
        try:
            yield [f"127.0.0.1:{each.getsockname()[1]}" for each in (http, mail)]
        finally:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("terminal")
    migrate(Home(home))
    # This `uvx` runs the command without fetching its package.
    programs = tmp_path_factory.mktemp("bin")
    for name, text in (("uvx", 'exec "$@"'), ("my-agent", "cat"), ("claude", "cat")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o700)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    with providers.provider() as provider, servers() as (host, mail):
        own = tmp_path_factory.mktemp("person")  # the reader's home directory
        for name in ("src/shop", "reports"):
            (own / name).mkdir(parents=True)
        variables = {"PATH": path, "HOME": str(own)}
        for role in ("AUTHOR", "COMMITTER"):  # as the reader's own git
            variables |= {f"GIT_{role}_NAME": "ana", f"GIT_{role}_EMAIL": "ana@example.org"}
        up = Up(home, tmp_path_factory.mktemp("empty"), variables=variables)
        try:
            up.until(lambda lines: any(line.startswith("Ready") for line in lines), within=120)
            keys = dict.fromkeys(("ANTHROPIC_API_KEY", "OPENAI_API_KEY"), providers.KEY)
            for name in ("stdin.txt", "token.txt", "password.txt"):
                (folder / name).write_text("a-value-that-nobody-knows\n")
            (folder / "url.txt").write_text(f"mailto://{mail}?from=me@a.example&to=me@b.example\n")
            (folder / "chats-url.txt").write_text(f"json://{host}/chats/{{chat_id}}\n")
            yield Reader(
                folder,
                environment(home)
                | keys
                | variables
                | {"PREPARED_VENV": sys.prefix, "FILES": str(folder)},
                {
                    r"<this repository>": str(REPOSITORY),
                    r"< ([\w-]+\.txt)": r'< "$FILES/\1"',
                    r"https://\w+\.example\.org": f"http://{host}",
                    r"--host \w+\.example\.org": f"--host {host}",
                    r"(--model anthropic:\S+)": rf"\1 --base-url {provider.origin}",
                    r"\b(python \S+\.python)": rf"ANTHROPIC_BASE_URL={provider.origin} \1",
                    r"http://127\.0\.0\.1:11434/v1": f"{provider.address} --key-env OPENAI_API_KEY",
                    r"http://127\.0\.0\.1:4200": str(up.facts()["ui_url"]),
                },
            )
        finally:
            up.end()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_works(page: str, request: pytest.FixtureRequest) -> None:
    steps = list(steps_of(page))
    if not steps:
        return
    if shutil.which("jq") is None:
        pytest.skip("service absent: jq")
    assert_shown(steps, request.getfixturevalue("reader").run(steps))


def assert_shown(steps: list[Step], outputs: list[str]) -> None:
    """Assert that each step has printed the lines that its page shows below it."""
    for step, printed in zip(steps, outputs, strict=True):
        lines = iter([_plain(line) for line in printed.splitlines()])
        for shown in step.shown:
            expected = re.compile(".*".join(map(re.escape, _plain(shown).split("…"))))
            found = any(expected.match(line) for line in lines)
            assert found, f"{step.where}: {shown!r} is not in\n{printed}"


def _plain(line: str) -> str:
    """Replace variable values in a line, and collapse its spaces."""
    return " ".join(VARIABLE.sub("@", line).split())


def _until_interrupted(command: list[str]) -> int:
    """Run a server until it answers at the address that it prints, then send Ctrl-C.

    Return its exit code, or 0 if that code means that Ctrl-C ended it.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="")
            if address := re.search(r"http://\S+", line):
                httpx.get(address[0], timeout=60, trust_env=False)
                child.send_signal(signal.SIGINT)
        return 0 if child.wait() == EXIT_INTERRUPTED else child.returncode


if __name__ == "__main__":
    sys.exit(_until_interrupted(sys.argv[1:]))
