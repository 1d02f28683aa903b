"""The system calls a sandbox refuses, as the BPF program that bubblewrap installs.

Refused are the ways to more kernel than a program needs: namespaces, mounts, tracing, keys, BPF, io_uring, loading,
clocks, System V IPC (it would outlive the program), limits of other processes, and every socket but AF_UNIX
(AF_VSOCK would reach the host of a virtual machine). Calls of another architecture than the machine's own end the
process. Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
"""

from __future__ import annotations

import errno
import platform
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: LD|W|ABS, JMP|JEQ, JGE, JSET, RET
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_X32 = 0x40000000
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_REFUSED = {
    "x86_64": {
        "shm": (29, 30, 31, 67),
        "semaphores": (64, 65, 66, 220),
        "messages": (68, 69, 70, 71, 240, 241, 242, 243, 244, 245),
        "tracing": (101, 310, 311, 312, 298),
        "mounts": (155, 161, 165, 166, 428, 429, 430, 431, 432, 433, 442),
        "namespaces": (272, 308),
        "system": (103, 134, 135, 163, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 246, 313, 320),
        "clocks": (159, 164, 227, 305),
        "keys": (248, 249, 250),
        "kernel": (212, 237, 238, 256, 279, 303, 304, 321, 323, 425, 426, 427, 438),
    },
    "aarch64": {
        "shm": (194, 195, 196, 197),
        "semaphores": (190, 191, 192, 193),
        "messages": (180, 181, 182, 183, 184, 185, 186, 187, 188, 189),
        "tracing": (117, 241, 270, 271, 272),
        "mounts": (39, 40, 41, 51, 428, 429, 430, 431, 432, 433, 442),
        "namespaces": (97, 268),
        "system": (60, 89, 92, 104, 105, 106, 116, 142, 161, 162, 224, 225, 273, 294),
        "clocks": (112, 170, 171, 266),
        "keys": (217, 218, 219),
        "kernel": (18, 235, 237, 238, 239, 264, 265, 280, 282, 425, 426, 427, 438),
    },
}
_NAMED = {
    "x86_64": {"clone": 56, "clone3": 435, "socket": 41, "socketpair": 53, "prlimit64": 302},
    "aarch64": {"clone": 220, "clone3": 435, "socket": 198, "socketpair": 199, "prlimit64": 261},
}


def seccomp_filter(machine: str = platform.machine()) -> bytes:
    """The BPF program for this machine's architecture, empty where its numbers are not known here."""
    if machine not in _AUDIT:
        return b""
    named = _NAMED[machine]
    code = [_op(_LOAD, _ARCHITECTURE), _op(_EQUAL, _AUDIT[machine], 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    if machine == "x86_64":
        code += [_op(_AT_LEAST, _X32, 0, 1), _refuse(errno.EPERM)]
    for number in sorted(n for numbers in _REFUSED[machine].values() for n in numbers):
        code += [_op(_EQUAL, number, 0, 1), _refuse(errno.EPERM)]
    # glibc falls back to clone, whose flags can be read; those of clone3 lie behind a pointer
    code += [_op(_EQUAL, named["clone3"], 0, 1), _refuse(errno.ENOSYS)]
    code += _unless(named["clone"], [_op(_ANY_BIT, _NEW_NAMESPACES, 0, 1), _refuse(errno.EPERM)])
    code += _unless(named["prlimit64"], [_op(_EQUAL, 0, 1, 0), _refuse(errno.EPERM)])
    for call in ("socket", "socketpair"):
        code += _unless(named[call], [_op(_EQUAL, 1, 1, 0), _refuse(errno.EAFNOSUPPORT)])
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _unless(number: int, checks: list[bytes]) -> list[bytes]:
    """For one call, checks of its first argument that jump over their refusal; then the call is allowed."""
    body = [_op(_LOAD, _ARGUMENT), *checks, _op(_RETURN, _ALLOW)]
    return [_op(_EQUAL, number, 0, len(body)), *body]


def _refuse(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
