"""The versions of the contract: the provider changed it twice, and real clients expect something in between.

`r1-2025-01` is the one the published prices belong to, `r1-0528` the one of May 2025, `compat` takes what clients
send and honours it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thinkery.serve.config import ProfileName


@dataclass(frozen=True, slots=True)
class Profile:
    """What one version of the contract takes, and what it does with it."""

    default_tokens: int
    """`max_tokens` where a request does not say."""
    most_tokens: int
    """The largest `max_tokens`."""
    most_thought: int | None
    """Longest thought where `max_tokens` limits the answer alone; None where it limits both together."""
    lenient: bool
    """Whether conversations of any shape are put right (merged, joined, thoughts dropped) instead of refused."""
    honours_sampling: bool
    """Whether temperature, top_p and penalties have an effect; else every answer is sampled with 0.6 and 0.95."""
    logprobs: bool
    """Whether log-probabilities may be asked for."""
    json: bool
    """Whether JSON may be asked for."""
    tools: bool
    """Whether tools may be offered."""
    several: bool
    """Whether several answers may be asked for."""


PROFILES: Mapping[ProfileName, Profile] = {
    "compat": Profile(
        default_tokens=32_768,
        most_tokens=65_536,
        most_thought=None,
        lenient=True,
        honours_sampling=True,
        logprobs=True,
        json=True,
        tools=True,
        several=True,
    ),
    "r1-2025-01": Profile(
        default_tokens=4_096,
        most_tokens=8_192,
        most_thought=32_768,
        lenient=False,
        honours_sampling=False,
        logprobs=False,
        json=False,
        tools=False,
        several=False,
    ),
    "r1-0528": Profile(
        default_tokens=32_768,
        most_tokens=65_536,
        most_thought=None,
        lenient=False,
        honours_sampling=False,
        logprobs=False,
        json=True,
        tools=True,
        several=False,
    ),
}
