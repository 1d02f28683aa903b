"""How much memory this machine, or the container around this process, has."""

from __future__ import annotations

import os
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
