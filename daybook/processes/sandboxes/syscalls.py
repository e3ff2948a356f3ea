"""Filter of system calls in a sandbox, as a program for `bwrap --seccomp`.

Namespaces do not separate everything: kernel keyrings, the sockets of a virtual machine (vsock),
and with the network of the host also its abstract Unix sockets. The filter refuses these. It also
refuses system calls that programs of a job do not need and in which many faults of the kernel were
found. It stops a program of another processor architecture (32-bit, x32), whose numbers it does not
know.

A refused call fails with EPERM, and a refused kind of socket with EAFNOSUPPORT.
"""

from __future__ import annotations

import errno
import struct

_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "acct": 163,
        "add_key": 248,
        "bpf": 321,
        "chmod": 90,
        "delete_module": 176,
        "fchmod": 91,
        "fchmodat": 268,
        "finit_module": 313,
        "init_module": 175,
        "ioctl": 16,
        "kexec_file_load": 320,
        "kexec_load": 246,
        "keyctl": 250,
        "mount": 165,
        "open_by_handle_at": 304,
        "perf_event_open": 298,
        "pivot_root": 155,
        "quotactl": 179,
        "request_key": 249,
        "setns": 308,
        "socket": 41,
        "socketpair": 53,
        "swapoff": 168,
        "swapon": 167,
        "syslog": 103,
        "umount2": 166,
        "userfaultfd": 323,
    },
    "aarch64": {
        "acct": 89,
        "add_key": 217,
        "bpf": 280,
        "delete_module": 106,
        "fchmod": 52,
        "fchmodat": 53,
        "finit_module": 273,
        "init_module": 105,
        "ioctl": 29,
        "kexec_file_load": 294,
        "kexec_load": 104,
        "keyctl": 219,
        "mount": 40,
        "open_by_handle_at": 265,
        "perf_event_open": 241,
        "pivot_root": 41,
        "quotactl": 60,
        "request_key": 218,
        "setns": 268,
        "socket": 198,
        "socketpair": 199,
        "swapoff": 225,
        "swapon": 224,
        "syslog": 116,
        "umount2": 39,
        "userfaultfd": 282,
    },
}
_SAME_EVERYWHERE = {
    "fchmodat2": 452,
    "fsconfig": 431,
    "fsmount": 432,
    "fsopen": 430,
    "fspick": 433,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "io_uring_setup": 425,
    "mount_setattr": 442,
    "move_mount": 429,
    "open_tree": 428,
    "quotactl_fd": 443,
}
"""System calls that are so new that they have one number on every architecture."""

_MODE_ARGUMENT = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
"""Position of the mode in the calls that can make a file a setuid program."""
_WITH_RULE = {"ioctl", "socket", "socketpair", *_MODE_ARGUMENT}

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_DGRAM = 2
_SOCKET_TYPE_MASK = 0xF  # the other bits are flags such as SOCK_CLOEXEC
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX, which type into a terminal
_SETUID_BIT = 0o4000

# Offsets in `struct seccomp_data`: number, architecture, and the low words of the arguments. The
# kernel uses only the low word of the arguments that the filter checks.
_NUMBER, _ARCHITECTURE = 0, 4
_ARGUMENTS = (16, 24, 32)

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_ERROR = 0x00050000  # SECCOMP_RET_ERRNO, with the error in the low bits
_KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS

MACHINES = tuple(_NUMBERS)
"""Names of the architectures, as in `os.uname().machine`, for which there is a filter."""


def filter_program(machine: str, *, unix_sockets: bool) -> bytes:
    """Return the filter for the architecture ``machine``, one of `MACHINES`.

    Without ``unix_sockets``, a program cannot create Unix sockets. It can still create pairs of
    connected stream sockets, which runtimes use between their own processes.
    """
    numbers = _NUMBERS[machine] | _SAME_EVERYWHERE
    code = _Code()
    code.add(_LOAD, _ARCHITECTURE)
    code.add(_IF_EQUAL, _AUDIT_ARCHITECTURE[machine], otherwise="kill")
    code.add(_LOAD, _NUMBER)
    if machine == "x86_64":
        code.add(_IF_AT_LEAST, _X32_BIT, then="kill")
    for name in sorted(numbers):
        code.add(_IF_EQUAL, numbers[name], then=name if name in _WITH_RULE else "refuse")
    code.add(_RETURN, _ALLOW)
    for name, position in _MODE_ARGUMENT.items():
        code.mark(name)
        code.add(_LOAD, _ARGUMENTS[position])
        code.add(_AND, _SETUID_BIT)
        code.add(_IF_EQUAL, 0, then="allow", otherwise="refuse")
    code.mark("ioctl")
    code.add(_LOAD, _ARGUMENTS[1])
    for request in _TERMINAL_INPUT:
        code.add(_IF_EQUAL, request, then="refuse")
    code.add(_RETURN, _ALLOW)
    code.mark("socket")
    code.add(_LOAD, _ARGUMENTS[0])
    for family in (_AF_INET, _AF_INET6, _AF_NETLINK, *([_AF_UNIX] if unix_sockets else [])):
        code.add(_IF_EQUAL, family, then="allow")
    code.add(_RETURN, _ERROR | errno.EAFNOSUPPORT)
    code.mark("socketpair")
    if not unix_sockets:
        # A datagram can be sent to the path of any socket, even from a connected pair.
        code.add(_LOAD, _ARGUMENTS[1])
        code.add(_AND, _SOCKET_TYPE_MASK)
        code.add(_IF_EQUAL, _SOCK_DGRAM, then="refuse")
    code.mark("allow")
    code.add(_RETURN, _ALLOW)
    code.mark("refuse")
    code.add(_RETURN, _ERROR | errno.EPERM)
    code.mark("kill")
    code.add(_RETURN, _KILL)
    return code.assemble()


class _Code:
    """Instructions of a classic BPF program. Jumps go forward, to a mark."""

    def __init__(self) -> None:
        self._instructions: list[tuple[int, int, str, str]] = []
        self._marks: dict[str, int] = {}

    def add(self, operation: int, value: int, *, then: str = "", otherwise: str = "") -> None:
        """Add an instruction; a condition jumps to a mark, or continues for an empty one."""
        self._instructions.append((operation, value, then, otherwise))

    def mark(self, name: str) -> None:
        self._marks[name] = len(self._instructions)

    def assemble(self) -> bytes:
        return b"".join(
            struct.pack("=HBBI", code, self._jump(at, then), self._jump(at, otherwise), value)
            for at, (code, value, then, otherwise) in enumerate(self._instructions)
        )

    def _jump(self, at: int, mark: str) -> int:
        return self._marks[mark] - at - 1 if mark else 0
