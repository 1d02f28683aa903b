"""The command that builds a sandbox with bubblewrap (0.7 or newer) and starts the zygote in it.

As root the sandbox has no user namespace: the zygote keeps three capabilities to turn programs into users without a
name, and may send them signals while they may not send it any. As another user a user namespace is needed, and
everything in the sandbox has one id and no capability.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from thinkery.errors import EnvironmentLacks

TMP_BYTES = 64 << 20
FIRST_UID, LAST_UID = 60_100, 65_500
"""The user ids programs run under as root; a pair for each worker, so that their limits on processes do not add up."""

_INSIDE = Path(__file__).parent / "inside"
_CODE = "/code/thinkery/sandbox/inside"
_START = (
    "import sys; sys.path.insert(0, {path!r}); from thinkery.sandbox.inside.zygote import main; "
    "main(uid={uid}, isolated={isolated})"
)
_COMPILER = ("g++", "as", "ld")
_SYSTEM = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/include", "/etc/ld.so.cache")
_LINKS = ("/lib", "/lib32", "/lib64")


def bubblewrap_command(uid: int, *, seccomp_fd: int | None, info_fd: int) -> list[str]:
    """bwrap with its arguments; raises EnvironmentLacks where it is not installed."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise EnvironmentLacks(
            "programs that models write need bubblewrap to run in",
            found="no bwrap on the PATH",
            hint='apt-get install bubblewrap (or sandbox = "process", which isolates nothing)',
        )
    arguments = [bwrap, *_namespaces(), *_root(), "--info-fd", str(info_fd)]
    if seccomp_fd is not None:
        arguments += ["--seccomp", str(seccomp_fd)]
    return [*arguments, "--", *python_command("/code", isolated=True, uid=uid)]


def python_command(path: str, *, isolated: bool, uid: int) -> list[str]:
    """Python with the zygote of `path`: no site packages, no module from the folder it stands in."""
    python = os.path.realpath(sys._base_executable)  # pyright: ignore[reportAttributeAccessIssue]
    return [python, "-P", "-s", "-S", "-B", "-c", _START.format(path=path, uid=uid, isolated=isolated)]


def _namespaces() -> list[str]:
    separate = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    private = ["--as-pid-1", "--new-session", "--hostname", "sandbox", "--clearenv", "--setenv", "PYTHONHASHSEED", "0"]
    private += ["--setenv", "PATH", "/usr/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    if os.geteuid() == 0:
        kept = [word for cap in ("SETUID", "SETGID", "KILL") for word in ("--cap-add", f"CAP_{cap}")]
        return [*separate, *private, "--cap-drop", "ALL", *kept]
    return ["--unshare-user", *separate, *private, "--cap-drop", "ALL"]


def _root() -> list[str]:
    """Mounts: Python, libraries, the compiler and the zygote, read-only; a small /tmp; nothing else."""
    compiler = {f"/usr/bin/{name}": os.path.realpath(found) for name in _COMPILER if (found := shutil.which(name))}
    libraries = {path: path for path in (*_SYSTEM, *_LINKS) if os.path.exists(path) and not os.path.islink(path)}
    bound = libraries | {path: path for path in _python_paths()} | compiler | {_CODE: str(_INSIDE)}
    parents = {str(parent) for path in bound for parent in Path(path).parents if parent != Path("/")}
    arguments: list[str] = []
    for path in sorted(parents):
        arguments += ["--perms", "0755", "--dir", path]  # bubblewrap makes them for root alone otherwise
    for path, source in bound.items():
        arguments += ["--ro-bind", source, path]
    for link in filter(os.path.islink, _LINKS):
        arguments += ["--symlink", os.readlink(link), link]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    return [*arguments, "--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/"]


def _python_paths() -> list[str]:
    """The interpreter, its standard library and its shared library."""
    python = os.path.realpath(sys._base_executable)  # pyright: ignore[reportAttributeAccessIssue]
    library = str(Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})))
    shared = [str(path) for path in Path(sys.base_prefix, "lib").glob("libpython*.so*")]
    found = [python, library, sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix}), *shared]
    return [path for path in dict.fromkeys(found) if not path.startswith(_SYSTEM)]
