"""How full an engine's memory for keys and values is."""

from __future__ import annotations

from thinkery.engine.native.engine import NativeEngine
from thinkery.engine.native.runner import CachedRunner


def cache_usage(engine: NativeEngine) -> float:
    """The share in use, by what runs and by known beginnings; 0 for a runner that keeps nothing."""
    runner = engine.runner
    if not isinstance(runner, CachedRunner):
        return 0.0
    return (engine.scheduler.room.tokens + engine.unplaced + runner.blocks.tokens) / runner.cache_tokens
