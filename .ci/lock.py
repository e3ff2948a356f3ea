"""Writer and checker of the lock files of pyproject.toml.

`requirements.lock` pins the packages that Daybook needs to be installed and to run;
`requirements-dev.lock` pins the development tools and the packages of all extras. Both locks are
universal, pinned by hash, and contain no address of an index or a file. Their first line is a
fingerprint of the requirements in pyproject.toml, so the check finds a dependency that changed
without a new lock, and needs no index. Uses the standard library only, because it runs before
`.venv` exists.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "# pyproject: "
# A scheme, a direct reference, an option or a path; comments may not contain them either.
ADDRESS = re.compile(r"://|\bfile:|^[^#\s]+ @ |^-|(^|\s)/\w")
LOWEST_PYTHON = "3.11"
LOCKS = {
    "requirements.lock": ("--group", "{pyproject}:build"),
    "requirements-dev.lock": ("--group", "{pyproject}:dev", "--all-extras"),
}
"""Each lock, and the options of uv for what it contains besides the dependencies."""


def fingerprint(pyproject: str) -> str:
    """Return a hash of the parts of a pyproject.toml (its text) that determine the locks."""
    read = tomllib.loads(pyproject)
    requirements = {
        "build": read["build-system"]["requires"],
        "python": read["project"]["requires-python"],
        "dependencies": read["project"]["dependencies"],
        "optional": read["project"].get("optional-dependencies", {}),
        "groups": read.get("dependency-groups", {}),
    }
    return hashlib.sha256(json.dumps(requirements, sort_keys=True).encode()).hexdigest()


def problems(pyproject: str, lock: str, name: str = "requirements.lock") -> list[str]:
    """Return the problems of the text of the lock ``name``."""
    found = []
    first, _, rest = lock.partition("\n")
    if first != MARK + fingerprint(pyproject):
        found.append(f"{name} does not match pyproject.toml; run `make lock`")
    for number, line in enumerate(rest.splitlines(), start=2):
        if ADDRESS.search(line):
            found.append(f"{name}:{number} contains an address: {line.strip()}")
    pins = _pins(rest)
    if not pins:
        found.append(f"{name} pins no package")
    found += [f"{pin.splitlines()[0]} has no hash" for pin in pins if "--hash=" not in pin]
    return found


def _pins(text: str) -> list[str]:
    pin = r"^[\w.-]+(?:\[[^\]]*\])?==.*(?:\n +--hash=.*)*"
    return re.findall(pin, text, flags=re.MULTILINE)


def _uv(folder: Path) -> str:
    """Return the path of uv; install it into a temporary environment if it is missing."""
    if installed := shutil.which("uv"):
        return installed
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    bin_ = folder / "venv" / "bin"
    subprocess.run([bin_ / "pip", "install", "--quiet", "uv"], check=True)
    return str(bin_ / "uv")


def write(root: Path, arguments: Sequence[str]) -> None:
    """Resolve and write both locks. Pins that still fit stay; ``arguments`` are passed to uv."""
    pyproject = (root / "pyproject.toml").read_text()
    head = f"{MARK}{fingerprint(pyproject)}\n# Written by: make lock\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # uv keeps the versions that it finds in its output file.
        before = [path.read_text() for lock in LOCKS if (path := root / lock).exists()]
        uv, pins = _uv(folder), dict[str, list[str]]()
        for lock, options in LOCKS.items():
            output = folder / lock
            output.write_text("".join(before))
            command = [uv, "pip", "compile", f"{root}/pyproject.toml"]
            command += [each.format(pyproject=root / "pyproject.toml") for each in options]
            command += [word for other in pins for word in ("--constraints", f"{folder / other}")]
            command += ["--universal", "--python-version", LOWEST_PYTHON, "--generate-hashes"]
            command += ["--no-header", "--no-annotate", "--quiet", "--output-file", str(output)]
            subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)
            earlier = {pin for others in pins.values() for pin in others}
            pins[lock] = [pin for pin in _pins(output.read_text()) if pin not in earlier]
    texts = {lock: head + "".join(f"{pin}\n" for pin in some) for lock, some in pins.items()}
    if found := _all_problems(pyproject, texts):
        sys.exit("\n".join(found))
    for lock, text in texts.items():
        (root / lock).write_text(text)


def _all_problems(pyproject: str, locks: Mapping[str, str]) -> list[str]:
    return [each for name, text in locks.items() for each in problems(pyproject, text, name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["write", "check"])
    options, rest = parser.parse_known_args()
    root = Path(__file__).resolve().parent.parent
    if options.verb == "write":
        write(root, rest)
        return
    locks = {name: (root / name).read_text() for name in LOCKS}
    if found := _all_problems((root / "pyproject.toml").read_text(), locks):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
