"""First program inside a sandbox: sets the limits, then becomes the program of the job.

`daybook.processes.sandboxes.sandbox` starts this file with the interpreter of Daybook, isolated and
without `site`. It imports only modules that are fast to import, and nothing from Daybook, because
no other file of Daybook is visible in the sandbox.

::

    python launcher.py CONFIG REPORT

``CONFIG`` is the descriptor of a file with a marshalled `dict`: `arguments`, `environment`,
`limits` (pairs of a resource's number and a value) and `listens`. ``REPORT`` is the descriptor of a
socket to Daybook. The launcher first sends `ready` there. With `listens`, a listening socket of the
sandbox's own network is attached, on which Daybook accepts the connections to its proxy. If the
program cannot be started, a second message has the number of the error.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore] # `signal` is slow to import
import _socket
import marshal
import os
import resource
import sys
from typing import Any

PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
"""Variables from which programs read the address of their proxy."""
DIRECT_VARIABLES = ("NO_PROXY", "no_proxy")
"""Variables from which programs read the hosts that they reach without the proxy."""
DIRECT_HOSTS = "localhost,127.0.0.1,::1"
READY = b"ready"


def main(config_descriptor: int, report_descriptor: int) -> None:
    """Set the limits, report, and execute the program. Exit with 127 if it cannot be started."""
    config = marshal.loads(_read_all(config_descriptor))
    os.close(config_descriptor)
    environment: dict[str, str] = config["environment"]
    report = _socket.socket(fileno=report_descriptor)
    os.set_inheritable(report_descriptor, False)
    rights: list[tuple[int, int, bytes]] = []
    if config["listens"]:
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        number = listener.fileno().to_bytes(4, sys.byteorder)
        rights.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, number))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment |= dict.fromkeys(PROXY_VARIABLES, address)
        environment |= dict.fromkeys(DIRECT_VARIABLES, DIRECT_HOSTS)
        environment["NODE_USE_ENV_PROXY"] = "1"  # Node.js ignores the others without it
    for limited, value in config["limits"]:
        _, most = resource.getrlimit(limited)
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limited, (allowed, allowed))
    # Python ignores two signals, and the shell before bwrap one more; the program shall not.
    for signal in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGTERM):
        _signal.signal(signal, _signal.SIG_DFL)
    report.sendmsg([READY], rights)
    try:
        _execute(config["arguments"], environment)
    except OSError as error:
        report.send(str(error.errno).encode())
        os._exit(127)


def _execute(arguments: list[str], environment: dict[str, str]) -> None:
    os.execvpe(arguments[0], arguments, environment)


def _read_all(descriptor: int) -> Any:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
