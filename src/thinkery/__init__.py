"""Thinkery turns a base language model into a reasoning model by the published DeepSeek-R1 recipe."""

import os

__version__ = "0.1.0"

os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # PyTorch then asks Linux for huge pages: faster, docs/performance.md
