"""Thinkery turns a base language model into a reasoning model by the published DeepSeek-R1 recipe."""

__version__ = "0.1.0"
