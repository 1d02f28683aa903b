"""How much memory this machine, or the container around this process, has, and giving back what is not needed."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path


def memory() -> tuple[int, int]:
    """Bytes of memory in all and available now, inside the limit of the container where there is one."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text))
        free = min(free, int(text) - int(used.read_text()))
    return total, free


def give_back() -> None:
    """Return to the system what nobody uses: dead cycles and the tensors in them, then the allocators' free pages.

    glibc keeps the pages of a large model's training between what is still in use, gigabytes of them, and the next
    step's allocations are of other sizes.
    """
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # musl has none
        trim(0)
