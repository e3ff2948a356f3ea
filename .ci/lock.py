"""requirements.lock: write it anew, or tell whether it still belongs to pyproject.toml.

The lock is universal, pinned by hash, and holds no address of an index or a file. Its first line is
a fingerprint of what pyproject.toml asks for, so that a change of the dependencies without a new
lock is seen without asking an index. Standard library only: it runs before there is a `.venv`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

MARK = "# pyproject: "
# A scheme, a direct reference, an option or a path; the comments hold none of them either.
ADDRESS = re.compile(r"://|\bfile:|^[^#\s]+ @ |^-|(^|\s)/\w")
LOWEST_PYTHON = "3.11"


def fingerprint(pyproject: str) -> str:
    """A hash of everything in the text of a pyproject.toml that decides the lock."""
    read = tomllib.loads(pyproject)
    asked = {
        "build": read["build-system"]["requires"],
        "python": read["project"]["requires-python"],
        "dependencies": read["project"]["dependencies"],
        "optional": read["project"].get("optional-dependencies", {}),
        "groups": read.get("dependency-groups", {}),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def problems(pyproject: str, lock: str) -> list[str]:
    """What is wrong with the text of a lock; empty when it is right."""
    found = []
    first, _, rest = lock.partition("\n")
    if first != MARK + fingerprint(pyproject):
        found.append("requirements.lock is older than what pyproject.toml asks for: make lock")
    for number, line in enumerate(rest.splitlines(), start=2):
        if ADDRESS.search(line):
            found.append(f"requirements.lock:{number} holds an address: {line.strip()}")
    pins = re.findall(r"^[\w.-]+(?:\[[^\]]*\])?==.*(?:\n +--hash=.*)*", rest, flags=re.MULTILINE)
    if not pins:
        found.append("requirements.lock pins nothing")
    found += [f"{pin.splitlines()[0]} has no hash" for pin in pins if "--hash=" not in pin]
    return found


def _uv(folder: Path) -> str:
    """The uv on the path, else one in a throw-away environment."""
    if there := shutil.which("uv"):
        return there
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    bin_ = folder / "venv" / "bin"
    subprocess.run([bin_ / "pip", "install", "--quiet", "uv"], check=True)
    return str(bin_ / "uv")


def write(root: Path, arguments: Sequence[str]) -> None:
    """Resolve anew; pins that still fit stay, unless ``arguments`` (for uv) say otherwise."""
    pyproject = (root / "pyproject.toml").read_text()
    lock = root / "requirements.lock"
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "requirements.lock"
        if lock.exists():
            made.write_text(lock.read_text())  # uv keeps the versions it finds in its output
        command = [_uv(Path(name)), "pip", "compile", "pyproject.toml", "--group", "dev"]
        command += ["--universal", "--python-version", LOWEST_PYTHON, "--generate-hashes"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--quiet"]
        command += ["--custom-compile-command", "make lock", "--output-file", str(made)]
        subprocess.run([*command, *arguments], check=True, cwd=root, stdout=subprocess.DEVNULL)
        text = f"{MARK}{fingerprint(pyproject)}\n{made.read_text()}"
    if wrong := problems(pyproject, text):
        sys.exit("\n".join(wrong))
    lock.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["write", "check"])
    verb, rest = parser.parse_known_args()
    root = Path(__file__).resolve().parent.parent
    if verb.verb == "write":
        write(root, rest)
        return
    lock = root / "requirements.lock"
    wrong = problems((root / "pyproject.toml").read_text(), lock.read_text())
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
