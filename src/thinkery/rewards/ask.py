"""Put conversations to an engine and wait for one reply to each: what every judge and editor does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thinkery.core import Completion, Message, Sampling

if TYPE_CHECKING:
    from thinkery.engine.base import Engine


def ask(
    engine: Engine, conversations: Sequence[tuple[Message, ...]], sampling: Sampling, seeds: Sequence[int]
) -> list[Completion]:
    """One reply per conversation, in order, all in flight together; `seeds[i]` decides reply i."""
    from thinkery.engine.base import Request, generate  # loads torch; rewards are importable without it

    requests = [Request((seed,), sampling, messages) for messages, seed in zip(conversations, seeds, strict=True)]
    replies: dict[int, Completion] = {}
    for i, (event,) in generate(engine, requests):
        assert event.completion
        replies[i] = event.completion
    return [replies[i] for i in range(len(requests))]
