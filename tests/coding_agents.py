"""A coding agent that is a program, and the repository of a user who works in it meanwhile."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.unit.features.repositories.projects import at, commit

PROGRAM = """
import os, re, signal, subprocess, sys
from pathlib import Path
name, way = re.search(r"work as (\\S+): (\\S+)", sys.stdin.read()).groups()

def git(*arguments):
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode and "nothing " not in done.stdout:
        sys.exit(f"git {arguments}: {done.stdout} {done.stderr}")

def write(path, text=""):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text or f"{name}\\n")

def daemon(script):
    subprocess.Popen(["setsid", "sh", "-c", script], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

own = f"work/{name}.txt"
match way:
    case "edit":
        write(own)
    case "commit":
        write(own)
        git("add", "-A")
        git("commit", "-qm", f"work of {name}")
    case "both":
        write(own)
        git("add", own)
        git("commit", "-qm", f"work of {name}")
        write(f"work/{name}-more/a.txt")
    case "break":
        write(own)
        write("broken")
    case "delete":
        Path(f"old/{name}.txt").unlink()
    case "conflict":
        write("shared.txt")
    case "hang":
        write(own)
        signal.pause()
    case "daemon":
        write(own)
        daemon("while true; do sleep 0.05; echo x >> late.ignored; done")
    case "meddle":
        write(own)
        write(".git/hooks/post-commit", f"#!/bin/sh\\ntouch {sys.argv[1]}/ran\\n")
        os.chmod(".git/hooks/post-commit", 0o755)
        git("config", "core.fsmonitor", f"touch {sys.argv[1]}/ran;:")
        git("config", "core.hooksPath", ".git/hooks")
        git("switch", "-qc", "elsewhere")
        write("stashed.txt")
        subprocess.run(["git", "-c", "core.fsmonitor=false", "stash", "-uq", "--", "stashed.txt"])
        write(".git/index.lock", "left")
    case "nothing":
        pass
print(f"Did {way}.")
"""
FILES = {
    "edit": {"work/{}.txt"},
    "commit": {"work/{}.txt"},
    "both": {"work/{}.txt", "work/{}-more/a.txt"},
    "break": {"work/{}.txt", "broken"},
    "delete": {"old/{}.txt"},
    "conflict": {"shared.txt"},
    "daemon": {"work/{}.txt"},
    "meddle": {"work/{}.txt"},
    "nothing": set[str](),
}
"""The files that a run which is named `{}` changes; a run that hangs changes none."""

VERIFY = ("sh", "-c", "! test -e broken")


def files_of(name: str, way: str) -> set[str]:
    return {each.format(name) for each in FILES[way]}


def command(folder: Path) -> list[str]:
    """Return the command of the agent, whose program is written to ``folder``."""
    program = folder / "coder.py"
    program.write_text(PROGRAM)
    return [sys.executable, "-I", str(program), str(folder)]


@dataclass(frozen=True)
class UserRepository:
    """The repository of a user: another branch than main is checked out, with changes and a stash.

    It has hooks and settings that would leave the file ``ran``.
    """

    folder: Path
    ran: Path

    @classmethod
    def create(cls, folder: Path, old: list[str]) -> UserRepository:
        """Create it in ``folder``, with a file for each of ``old`` that an agent can delete."""
        made = cls(folder, folder.parent / "ran")
        (folder / "old").mkdir(parents=True)
        at(folder, "init", "-q", "-b", "main")
        (folder / ".gitignore").write_text("*.ignored\n")
        for name in old:
            (folder / "old" / f"{name}.txt").write_text(f"{name}\n")
        commit(folder, shared="of the user\n", a="one\n", b="two\n")
        at(folder, "switch", "-qc", "mine")
        commit(folder, mine="of mine\n")
        (folder / "a.txt").write_text("stashed\n")
        at(folder, "stash", "-q")
        (folder / "a.txt").write_text("not staged\n")
        (folder / "b.txt").write_text("staged\n")
        (folder / "new.txt").write_text("not tracked\n")
        at(folder, "add", "b.txt")
        program = folder / ".git" / "program"
        program.write_text(f"#!/bin/sh\ntouch '{made.ran}'\n")
        program.chmod(0o755)
        hooks = folder / ".git" / "hooks"
        hooks.mkdir(exist_ok=True)
        for name in ("reference-transaction", "post-checkout", "pre-auto-gc", "post-merge"):
            (hooks / name).symlink_to(program)
        at(folder, "config", "core.fsmonitor", str(program))
        at(folder, "config", "core.sshCommand", str(program))
        return made

    def content(self) -> dict[str, bytes]:
        """Return the content of all files that a landing must not change, by their paths."""
        found = dict[str, bytes]()
        git = self.folder / ".git"
        changed = [git / "objects"]
        for root in (git, git / "logs"):
            changed += [root / "refs" / "heads" / each for each in ("main", "daybook")]
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [each for each in folders if Path(folder, each) not in changed]
            for name in names:
                path = Path(folder, name)
                if path not in changed:
                    found[str(path.relative_to(self.folder))] = path.read_bytes()
        return found

    def files(self, branch: str) -> set[str]:
        return set(at(self.folder, "ls-tree", "-r", "--name-only", branch).splitlines())

    def check(self) -> None:
        """Assert that git finds no fault in it, and that no program of it has run."""
        environment = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
        found = at(self.folder, *environment, "fsck", "--full", "--no-dangling")
        assert not found, found
        assert not self.ran.exists()
