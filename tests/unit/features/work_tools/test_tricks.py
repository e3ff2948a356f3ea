"""Paths that should lead out of the work directory, or to secrets in it (issue 59)."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import DaybookError
from daybook.features.work_tools.paths import is_denied
from daybook.home import Home
from tests import rows
from tests.unit.features.work_tools.conftest import SECRET, Files, tools

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]

CALLS: dict[str, dict[str, Any]] = {
    "list": {},
    "find": {"pattern": "*"},
    "grep": {"pattern": "E"},
    "read": {},
    "write": {"content": "overwritten", "create_folders": True},
    "edit": {"old": "SECRET", "new": "overwritten"},
}

SECRETS = (
    *(".env", ".ENV", ".Env", ".env.local", ".envrc", ".\uff45nv", ".e\u200bnv", ".env ", ".env."),
    *(
        ".git/config",
        ".GIT/config",
        ".g\u0131t/../.git/config",
        ".g\u200cit/config",
        ".git./config",
    ),
    *("\uff0egit/config", ".gi\u00adt/config", ".git \u200d/config", ".\uff27\uff29\uff34/config"),
    *(
        ".ssh/known",
        ".\u017f\u017fh/known",
        ".SSH/known",
        ".aws/credentials",
        ".AW\u017f/credentials",
    ),
    *(".gnupg/ring", ".netrc", ".NETRC", ".npmrc", ".pypirc", ".git-credentials"),
    *("server.pem", "SERVER.PEM", "a.\uff50em", "tls.key", "tls.\u212aey", "tls.KEY", "x.key."),
    *("id_rsa", "ID_RSA", "id_rsa.old", "id_r\u017fa", "id_ed25519", "id_ed25519.pub", "id_ecdsa"),
    *(".ssh", ".git", ".aws"),
)
"""Names of secrets, and other spellings that are the same names on some file systems."""


class Ground:
    """A work directory among other folders; every file outside has the content `SECRET`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work, self.outside = folder / "work", folder / "outside"
        self.docs = folder / "docs"
        for each in (self.work / "sub", self.outside / "in", self.docs, folder / "work-evil"):
            each.mkdir(parents=True)
        secret = self.outside / "secret.txt"
        for each in (secret, self.outside / "in/a.txt", folder / "work-evil/a.txt"):
            each.write_text(SECRET)
        (self.work / "a.txt").write_text("plain")
        (self.docs / "a.md").write_text("plain")
        self.secrets = []
        for name in SECRETS:
            for place in (self.work / name, self.work / "sub" / name, self.docs / name):
                if ".." not in name and not place.exists() and "/" in name:
                    place.parent.mkdir(exist_ok=True)
                if ".." not in name and not place.exists():
                    place.write_text(SECRET)
                    self.secrets.append(place)
        self.links = {
            "file": "../outside/secret.txt",
            "absolute": str(secret),
            "folder": "../outside",
            "absolute_folder": str(self.outside),
            "chain": "folder",
            "chain_of_file": "chain/secret.txt",
            "dangling": "../outside/new.txt",
            "dangling_folder": "../outside/newer/",
            "loop": "loop",
            "parent": "..",
            "root": "/",
            "itself": ".",
            "secret_within": ".env",
            "key.txt": "sub/id_rsa",
            "sub/up": "../../outside",
            "sub/plain": "../a.txt",
        }
        for name, target in self.links.items():
            (self.work / name).symlink_to(target)
        (self.docs / "link.md").symlink_to("../outside/secret.txt")
        (self.docs / "link").symlink_to("../outside")
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        """Return everything that no tool may change."""
        kept = [*self.outside.rglob("*"), *self.docs.rglob("*"), *self.secrets]
        kept += [*self.folder.glob("*"), *(self.folder / "work-evil").rglob("*")]
        kept += [self.work / name for name in self.links]
        return {
            str(each): os.readlink(each)
            if each.is_symlink()
            else (each.stat().st_ino, each.read_bytes())
            if each.is_file()
            else sorted(os.listdir(each)) * (each != self.work)
            for each in kept
        }

    def tricks(self) -> Iterator[str]:
        out, work = "outside/secret.txt", str(self.work)
        climbs = ["..", "./..", "sub/../..", "sub/./../..", ".//..", "a.txt/../..", "sub//..//.."]
        for climb in climbs:
            for end in ("", "/", "/.", "//", "/./"):
                yield f"{climb}/{out}{end}"
                yield f"{climb}{end}"
        for begin in ("", "/", "/./", f"{work}/..", f"{work}/sub/../..", f"{work}-evil/../work/.."):
            yield (
                f"{begin}{self.outside}/secret.txt"
                if begin in ("", "/", "/./")
                else f"{begin}/{out}"
            )
        yield from (f"{work}-evil/a.txt", f"{work}-evil", str(self.folder), str(self.outside), "/")
        yield from (
            "/etc/passwd",
            "//etc/passwd",
            "/proc/self/environ",
            "/proc/self/root/etc/passwd",
        )
        yield from ("~", "~/", "~root", "~/.ssh/id_rsa", "$HOME/x", "${PWD}/../outside")
        yield from ("%2e%2e/outside/secret.txt", "..%2foutside", "..\\outside\\secret.txt")
        yield from (
            "\uff0e\uff0e/outside/secret.txt",
            "\u2025/outside",
            "..\u2215outside",
            ".. /outside",
        )
        yield from ("a.txt\0", "\0", "a.txt\0/../../outside", "\ud800", "x" * 1_001, "x" * 300)
        yield from ("a.txt/b", "a.txt/.", "file:///etc/passwd", f"file://{self.outside}", "-", "")
        folders = ("", "sub/", "@docs/", "./", f"{work}/", f"{self.docs}/")
        for number, name in enumerate(SECRETS):
            yield f"{folders[number % 6]}{name}"
            yield f"{folders[number % 5 + 1]}{name}"
        for name in self.links:
            for end in ("", "/", "/secret.txt", "/in/a.txt", "/../outside/secret.txt"):
                yield f"{name}{end}"
        yield from (
            "itself/a.txt",
            "itself/itself/.env",
            "parent/outside/secret.txt",
            "root/etc/passwd",
        )
        yield from ("dangling_folder/x", "chain/in/a.txt", "sub/up/secret.txt")
        for each in ("link.md", "link/secret.txt", "../outside/secret.txt", "./../../outside"):
            yield f"@docs/{each}"
            yield f"{self.docs}/{each}"
        yield from ("@docs/../work-evil/a.txt", "@nowhere/x/..", "@/x/..", "@docs/a.md/..")


@pytest.fixture
async def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv("DAYBOOK_READ_ONLY_FOLDERS", str(tmp_path / "ground/docs"))
    return Ground(tmp_path / "ground")


async def test_no_path_leads_out_of_the_folders_or_to_a_secret(ground: Ground) -> None:
    files = Files(await tools("files", ground.work), ground.work)
    tricks = list(dict.fromkeys(ground.tricks()))
    assert len(tricks) >= 200
    refused, listed = 0, os.listdir(ground.outside)
    for trick, trying in rows.each(tricks):
        with trying:
            for name, arguments in CALLS.items():
                try:
                    answer = await files(name, path=trick, **arguments)
                except DaybookError as error:
                    answer = str(error)
                    refused += 1
                assert SECRET not in answer, name
                json.dumps(answer, ensure_ascii=False).encode()  # it can be stored
            assert os.listdir(ground.outside) == listed
    assert ground.state() == ground.before
    # Most of them are errors, so the tools do not just answer with nothing.
    assert refused > 0.9 * len(tricks) * len(CALLS)


async def test_searches_of_everything_find_no_secret(ground: Ground) -> None:
    files = Files(await tools("files", ground.work), ground.work)
    for path in (".", "@docs"):
        for pattern in ("SECRET", "(?i)secret"):
            found = await files("grep", pattern=pattern, path=path, regex=True)
            assert found.startswith("There are no matches.")
        found = await files("find", pattern="**/*", path=path)
        listed = await files("list", path=path)
        assert not any(is_denied(name) for line in found.splitlines() for name in line.split("/"))
        assert not any(is_denied(line.split("Z  ")[-1]) for line in listed.splitlines())
    assert "a.txt" in await files("find", pattern="*.txt")


@pytest.mark.parametrize("name", ["g\u0456t", "environment", ".gitignore", ".github", "monkey"])
def test_names_that_only_look_like_a_secret_are_no_secret(name: str) -> None:
    assert not is_denied(name)


async def test_a_link_is_named_as_the_reason(ground: Ground) -> None:
    files = Files(await tools("files", ground.work), ground.work)
    for path in ("file", "folder/secret.txt", "sub/plain", "dangling", "loop", "itself/a.txt"):
        for name in ("read", "write", "edit"):
            with pytest.raises(DaybookError, match="is a link"):
                await files(name, path=path, **CALLS[name])


async def test_a_hard_link_is_read_like_a_copy_and_never_written_through(
    files: Files, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("one")
    os.link(other, files.path / "a.txt")
    assert (await files("read", path="a.txt")).endswith("\none")
    await files("edit", path="a.txt", old="one", new="two")
    await files("write", path="a.txt", content="three")
    assert other.read_text() == "one"
    assert (files.path / "a.txt").read_text() == "three"


async def test_the_folders_of_daybook_itself_are_closed(tmp_path: Path, daybook_home: Home) -> None:
    config = tmp_path / "home/config.toml"
    config.write_text("max_light = 3")
    for files, path in (
        (Files(await tools("files", tmp_path), tmp_path), "home/config.toml"),
        (Files(await tools("files", tmp_path / "home"), tmp_path), "config.toml"),
    ):
        for name in ("read", "write", "edit"):
            with pytest.raises(DaybookError, match="of Daybook itself"):
                await files(name, path=path, **CALLS[name])
    everywhere = Files(await tools("files", tmp_path), tmp_path)
    found = await everywhere("grep", pattern="max_light")
    assert found.splitlines()[0] == "There are no matches."
    assert "Not searched: home" in found
    assert config.read_text() == "max_light = 3"


# --- links that are swapped during a call


class Swapper:
    """Swaps files and folders for links, without a pause, until the end of the block."""

    def __init__(self, work: Path, outside: Path) -> None:
        self._work, self._outside = work, outside
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._swap)
        self.swaps = 0

    def __enter__(self) -> Swapper:
        for folder in ("plain", "folder"):
            (self._work / folder).mkdir()
        (self._work / "folder/a.txt").write_text("plain")
        (self._work / "link_folder").symlink_to(self._outside)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _swap(self) -> None:
        work = os.fspath(self._work)
        while not self._is_over.is_set():
            # A folder, and a link to a folder.
            os.rename(f"{work}/folder", f"{work}/kept")
            os.rename(f"{work}/link_folder", f"{work}/folder")
            # A file, and a link to a file.
            os.symlink(self._outside / "a.txt", f"{work}/plain/new")
            os.replace(f"{work}/plain/new", f"{work}/plain/a.txt")
            os.rename(f"{work}/folder", f"{work}/link_folder")
            os.rename(f"{work}/kept", f"{work}/folder")
            with open(f"{work}/plain/new", "w") as file:
                file.write("plain")
            os.replace(f"{work}/plain/new", f"{work}/plain/a.txt")
            self.swaps += 1


async def test_links_that_are_swapped_during_a_call_lead_nowhere(
    files: Files, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text(SECRET)
    status = (outside / "a.txt").stat()
    cases, answered = 0, 0
    with Swapper(files.path, outside) as swapper:
        while cases < 200 or (swapper.swaps < 200 and cases < 5_000):
            path = ("folder/a.txt", "plain/a.txt")[cases % 2]
            name = ("read", "write", "edit", "grep", "list", "find")[cases // 2 % 6]
            given = CALLS[name] | {"path": path}
            if name == "write":
                given["create_folders"] = False
            elif name in ("list", "find"):
                given["path"] = path.split("/")[0]
            elif name == "edit":
                given |= {"old": "plain", "new": "plain"[::-1]}
            try:
                answer = await files(name, **given)
                answered += 1
            except DaybookError as error:
                answer = str(error)
            assert SECRET not in answer
            cases += 1
    assert sorted(os.listdir(outside)) == ["a.txt"]
    now = (outside / "a.txt").stat()
    assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert swapper.swaps and answered


# --- special files


async def test_special_files_neither_block_nor_open(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_READ_ONLY_FOLDERS", "/dev")
    files = Files(await tools("files", work), work)
    os.mkfifo(work / "fifo")
    (work / "a.txt").write_text("found")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(work)
        bound.bind("socket")
        for path in ("fifo", "socket", "@dev/zero", "@dev/tty", "/dev/null"):
            for name in ("read", "grep"):
                with pytest.raises(DaybookError, match="is no regular file"):
                    await files(name, path=path, **CALLS[name])
        for path in ("fifo", "socket"):
            for name in ("write", "edit"):
                with pytest.raises(DaybookError, match="is no regular file"):
                    await files(name, path=path, **CALLS[name])
        assert "special" in await files("list")
        assert await files("grep", pattern="found") == "a.txt:1: found"
    assert sorted(os.listdir(work)) == ["a.txt", "fifo", "socket"]
