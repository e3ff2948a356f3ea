"""Builds the wheel and the source distribution of the last commit, and checks them.

Usage: `make release`, in a clean clone. `dist/` then has both files. The checks:

- `CHANGELOG.md` has a section of the version with its date, and nothing that is unreleased;
- the dumps of a ledger of this version exist (`python -m tests.migrations.released VERSION`);
- both files contain the committed files of the entry points and of the package, and no other;
- each of them, installed in an empty folder without the locks, runs a scheduled job to its end.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
DUMPS = ROOT / "tests" / "migrations" / "released"
PACKAGED = ("daybook/", "flows/", "blocks/", "deployments/", "prefect.yaml")


def main() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    problems = [*_problems_before(version)]
    if problems:
        sys.exit("\n".join(problems))
    shutil.rmtree(DIST, ignore_errors=True)
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(DIST)]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,), (source,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    if problems := [*_problems_of(wheel, source)]:
        sys.exit("\n".join(problems))
    for each in (wheel, source):
        subprocess.run([ROOT / ".ci" / "unlocked", each], cwd=ROOT, check=True)
    print(f"built and installed: {wheel.name}, {source.name}")


def _problems_before(version: str) -> Iterator[str]:
    status = ["git", "status", "--porcelain"]
    if subprocess.run(status, cwd=ROOT, capture_output=True, check=True).stdout:
        yield "the clone has changes that are not committed"
    changes = (ROOT / "CHANGELOG.md").read_text()
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        yield f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`"
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## )", changes, re.MULTILINE | re.DOTALL)
    if unreleased and unreleased[1].strip():
        yield "CHANGELOG.md has changes that are unreleased"
    for database in ("sqlite", "postgresql"):
        if not (DUMPS / f"{version}-{database}.sql").is_file():
            yield f"there is no dump: python -m tests.migrations.released {version}"


def _problems_of(wheel: Path, source: Path) -> Iterator[str]:
    listed = ["git", "ls-files", *PACKAGED]
    printed = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    committed = set(printed.splitlines())
    in_wheel = {
        name.removeprefix("daybook/_repo/")
        for name in zipfile.ZipFile(wheel).namelist()
        if ".dist-info/" not in name
    }
    with tarfile.open(source) as archive:
        files = [each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()]
    in_source = {name for name in files if name.startswith(PACKAGED)}
    for name, found in ((wheel.name, in_wheel), (source.name, in_source)):
        if found != committed:
            yield f"{name} differs from the committed files: {sorted(found ^ committed)[:20]}"


if __name__ == "__main__":
    main()
