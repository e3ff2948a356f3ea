"""What a hostile program looks for on this machine: files, services and processes of a test."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daybook.processes.sandboxes import bubblewrap, launcher, mounts

SECRET = "a secret of this machine"
_LIBC = ctypes.CDLL(None, use_errno=True)
_ADD_KEY, _KEYCTL, _UNLINK = 248, 250, 9
_SESSION_KEYRING = -3


@dataclass
class Target:
    """Folders of a test; ``named`` are the paths, ports and processes for `hostile.py`."""

    root: Path
    work: Path
    home: Path
    readable: Path
    store: Path
    victim: subprocess.Popen[bytes]
    named: dict[str, Any] = field(default_factory=dict)
    secret: str = SECRET


def _write(path: Path, text: str = SECRET) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@contextmanager
def prepared(root: Path) -> Iterator[Target]:
    """Prepare everything under ``root``, whose folder `daybook` is Daybook's home."""
    home, daybook = root / "user", root / "daybook"
    work = daybook / "worktrees" / "run" / "work"
    store = daybook / "repositories" / "name" / "store.git" / "objects"
    readable = home / "named"
    mark = uuid.uuid4().hex
    work.mkdir(parents=True)
    (readable / "credentials").mkdir(parents=True)
    paths = {
        "daybook_home_secret": _write(daybook / "ledger-key"),
        "ssh_key": _write(home / ".ssh" / "id_ed25519"),
        "credentials": _write(home / ".aws" / "credentials"),
        "named_but_protected": _write(home / ".config" / "gh" / "hosts.yml"),
        "other_home_file": _write(root / "homes" / "other" / "notes"),
        "sibling_file": _write(work.parent / "outside" / "sibling"),
        "host_temporary_file": _write(Path(f"/tmp/daybook-hostile-{mark}")),
        "host_shared_memory_file": _write(Path(f"/dev/shm/daybook-hostile-{mark}")),
        "store_outside_objects": _write(store.parent / "config"),
        "readable_file": _write(readable / "file"),
        "outside": str(work.parent / "outside"),
        "outside_new": str(work.parent / "outside" / "new"),
        "daybook_home_new": str(daybook / "new"),
        "home_new": str(home / "new"),
        "other_home_new": str(root / "homes" / "other" / "new"),
        "readable_new": str(readable / "new"),
        "home": str(home),
        "launcher": str(Path(launcher.__file__)),
        "interpreter": mounts.interpreter(),
        "bwrap": bubblewrap.program(),
    }
    _write(home / ".config" / "tool.toml", "visible")
    for each in ("outside_new", "daybook_home_new", "home_new", "other_home_new", "readable_new"):
        _write(Path(paths[each]).with_name("marker"))
    (store / "ab").mkdir(parents=True)
    (work / "link_to_secret").symlink_to(paths["ssh_key"])
    (work / "link_to_outside").symlink_to(paths["outside"])
    setuid = readable / "setuid_id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", setuid)
    if os.getuid() == 0:
        os.chown(setuid, 65534, 65534)
    setuid.chmod(0o4755)
    with ExitStack() as stack:
        stack.callback(Path(paths["host_temporary_file"]).unlink)
        stack.callback(Path(paths["host_shared_memory_file"]).unlink)
        victim = stack.enter_context(_victim(mark))
        target = Target(root, work, home, readable, store, victim)
        target.named = {
            **paths,
            "victim": victim.pid,
            "victim_group": victim.pid,
            "setuid_program": str(setuid),
            "victim_mark": mark,
            "port": stack.enter_context(_service(socket.AF_INET, ("127.0.0.1", 0))),
            "port_any": stack.enter_context(_service(socket.AF_INET, ("0.0.0.0", 0))),
            "port_6": stack.enter_context(_service(socket.AF_INET6, ("::1", 0))),
            "udp_port": stack.enter_context(_datagrams(socket.AF_INET, ("127.0.0.1", 0))),
            "own_address": _own_address(),
            "unix_socket": f"{root}/host.socket",
            "readable_socket": f"{readable}/host.socket",
            "abstract_socket": f"daybook-hostile-{mark}",
            "shared_memory_key": 0x0DB00C,
            "queue": "/daybook-hostile",
            "key_name": f"daybook-hostile-{mark}",
        }
        for path in (f"{root}/host.socket", f"{readable}/host.socket", f"{work}/service.socket"):
            stack.enter_context(_service(socket.AF_UNIX, path))
        stack.enter_context(_service(socket.AF_UNIX, f"\0daybook-hostile-{mark}"))
        stack.enter_context(_datagrams(socket.AF_UNIX, f"{work}/datagrams.socket"))
        stack.enter_context(_shared_memory(0x0DB00C))
        stack.enter_context(_key(target.named["key_name"]))
        yield target


@contextmanager
def _victim(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    victim = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; print(1, flush=True); signal.pause()",
            "victim",
            mark,
        ],
        env={"DAYBOOK_TEST_SECRET": "worker-secret of the victim"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert victim.stdout is not None
    with victim.stdout:
        victim.stdout.readline()
    try:
        yield victim
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()


@contextmanager
def _serving(server: socket.socket, serve: Callable[[], None]) -> Iterator[Any]:
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    name = server.getsockname()
    try:
        yield name[1] if isinstance(name, tuple) else name
    finally:
        with ExitStack() as closing:
            closing.callback(server.close)
            server.shutdown(socket.SHUT_RDWR) if server.type == socket.SOCK_STREAM else None
        if isinstance(name, str) and name:
            Path(name).unlink()


@contextmanager
def _service(family: int, address: Any) -> Iterator[Any]:
    """Greet every connection with `hello`; yield the port."""
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind(address)
    server.listen(16)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hello")

    with _serving(server, serve) as port:
        yield port


@contextmanager
def _datagrams(family: int, address: Any) -> Iterator[Any]:
    """Return every datagram to its sender; yield the port."""
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind(address)
    server.settimeout(0.2)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                data, sender = server.recvfrom(512)
                if sender:
                    server.sendto(data, sender)
            except TimeoutError:
                continue
            except OSError:
                return

    with _serving(server, serve) as port:
        try:
            yield port
        finally:
            stopping.set()


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@contextmanager
def _shared_memory(key: int) -> Iterator[None]:
    number = _LIBC.shmget(key, 4096, 0o1600)
    try:
        yield
    finally:
        _LIBC.shmctl(number, 0, None)


@contextmanager
def _key(name: str) -> Iterator[None]:
    """Add a key to the session's keyring, which child processes inherit."""
    if os.uname().machine != "x86_64":
        yield
        return
    key = _LIBC.syscall(_ADD_KEY, b"user", name.encode(), b"secret", 6, _SESSION_KEYRING)
    try:
        yield
    finally:
        _LIBC.syscall(_KEYCTL, _UNLINK, key, _SESSION_KEYRING)
