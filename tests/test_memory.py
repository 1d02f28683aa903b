"""How PyTorch's tensors lie in memory once Thinkery is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import os, re, sys
if sys.argv[1] == "refused":
    os.environ["THP_MEM_ALLOC_ENABLE"] = "0"
import thinkery, torch
kept = torch.ones(2**24)
print(sum(map(int, re.findall(r"AnonHugePages: +([0-9]+) kB", open("/proc/self/smaps").read()))))
"""


def huge_kb(asked: str) -> int:
    """Of a process that holds a tensor of 64 MB."""
    found = subprocess.run([sys.executable, "-c", PROGRAM, asked], check=True, stdout=subprocess.PIPE, text=True)
    return int(found.stdout)


@pytest.mark.skipif(not SETTING.exists() or "[madvise]" not in SETTING.read_text(), reason="no huge pages on request")
def test_large_tensors_lie_in_huge_pages_unless_the_user_says_no():
    assert huge_kb("wanted") >= 32 * 1024
    assert huge_kb("refused") < 8 * 1024
