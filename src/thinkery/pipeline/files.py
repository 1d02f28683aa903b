"""Writing that survives a kill: atomic files and folders, append-only rows, and a clear error when there is no room.

Limit: one writer per file. `lock.py` sees to that for a run directory.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thinkery.errors import DiskFull, EnvironmentLacks, InputError, ThinkeryError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn "no room" into DiskFull and "not allowed" into EnvironmentLacks, both naming `path`."""
    try:
        yield
    except ThinkeryError:
        raise
    except Exception as error:
        if _means_full(error, path):
            raise disk_full(path) from error
        if isinstance(error, OSError) and error.errno in DENIED:
            hint = f"a directory you own, or: sudo chown -R $USER {path.parent}"
            raise EnvironmentLacks("no permission to write", where=str(error.filename or path), hint=hint) from error
        raise


def disk_full(path: Path, needed: int | None = None) -> DiskFull:
    """The error that says how much room there is, and how much is `needed` where that is known."""
    need = f" of {size_text(needed)} needed" if needed is not None else ""
    return DiskFull(
        "no room left to write",
        where=str(path),
        found=f"{size_text(free_bytes(path))} free{need}",
        hint="free some space, then give the same command again; nothing already written is lost",
    )


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the device of `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def write_file(path: Path, data: bytes | str, *, sync: bool = True) -> None:
    """Write a whole file or nothing; with `sync` it also survives a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new folder that appears at `path` only when whole and on the disk; replaces an old one."""
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")  # nobody else's names
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            for made in temporary.rglob("*"):
                sync_path(made)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        temporary.rename(path)
        sync_path(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder that nobody sees half removed; what a kill leaves of it is called `.*.tmp`."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    path.rename(temporary)
    shutil.rmtree(temporary)


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """One line of JSON in UTF-8; half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode() + b"\n"


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line of JSON; a torn last line, left by a kill, is cut first, and a failed write leaves none."""
    line = row_bytes(row)
    with writing(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            whole = _cut_torn_line(file)
            try:
                if os.write(file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(file, whole)
                raise
        finally:
            os.close(file)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl or .jsonl.gz file; a torn last line is left out, a bad line before it is an error."""
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115 (closed by with below)
    with opened as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"not a line of JSON: {error}", where=f"{path}:{number}") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file; InputError when it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=str(path)) from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from error


def read_state(path: Path) -> Any | None:
    """The value in a JSON file that another process replaces or removes, and that is not put on the disk each time:
    None where it is not there, not any more, or was emptied by a power cut."""
    with suppress(FileNotFoundError, ValueError):
        return json.loads(path.read_bytes())
    return None


def length_of(path: Path) -> int:
    """Bytes in a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def zipped(rows: Iterable[Mapping[str, Any]], level: int) -> bytes:
    """Rows as gzipped JSON lines whose bytes depend on nothing but the rows and the level."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=level, mtime=0) as file:
        for row in rows:
            file.write(row_bytes(row))
    return buffer.getvalue()


def hash_file(path: Path) -> dict[str, Any]:
    """The sha256 and the size of a file."""
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def hash_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """`hash_file` of every file below a folder, by its relative path, hidden ones left out."""
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {n.as_posix(): hash_file(folder / n) for n in names if not any(part.startswith(".") for part in n.parts)}


def link(source: Path, target: Path) -> None:
    """Make a file or a folder also appear at `target`: hard links, or copies where the device differs."""
    with writing(target):
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_file, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_file(source, target)


def sync_path(path: Path) -> None:
    """Ask the system to put a file or a folder on the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finite(value: float | None) -> float | None:
    """A plain float for JSON, which has no NaN and no infinity: they become None."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def size_text(size: float) -> str:
    """A size for a person: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _means_full(error: Exception, path: Path) -> bool:
    """Whether an error, also one that torch or safetensors has reworded, comes from a full device."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    if any(os.strerror(number) in str(error) for number in FULL):
        return True
    with suppress(OSError):
        return "write" in str(error) and free_bytes(path) < 1_000_000
    return False


def _cut_torn_line(file: int) -> int:
    """Cut what follows the last newline of an open file; returns the length that is left."""
    size = end = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    os.ftruncate(file, end)
    return end


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        shutil.copy2(source, target)
