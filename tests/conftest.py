"""Every test runs offline, and on one thread: two tests at a time fill two cores, and threads that wait cost more."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
