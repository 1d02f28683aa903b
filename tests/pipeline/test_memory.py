"""What is not used goes back to the system."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from thinkery.pipeline.memory import give_back

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

class Knot:
    def __init__(self):
        self.itself, self.tensor = self, torch.ones(50_000_000)

before = held()
small = [bytearray(b"x" * 60_000) for _ in range(5_000)]  # glibc takes them from its heap
last = bytearray(b"x" * 60_000)
knot = Knot()
del small, knot
kept = held()
give_back()
print(json.dumps([held() - before, kept - before, len(last)]))
"""


def test_freed_memory_and_dead_cycles_go_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    left, kept, _ = json.loads(done.stdout)
    assert kept > 450e6  # 300 MB in the heap, 200 MB in a cycle
    assert left < 50e6
