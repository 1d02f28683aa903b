"""Weights on their way to an engine that samples from a copy of them, and how they are known to have arrived.

A copy can be stale without anybody noticing. So before it samples, an engine names the version of the weights that it
has, and gives a fixed text, the canary, the log-probabilities that the learner gives it. Otherwise RunFailed ends the
run. All engines in other processes are delivered to like this, our own (`member.py`) and vLLM (`vllm.py`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from thinkery.engine.canary import CANARY, gap, text_logprobs
from thinkery.errors import RunFailed
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.weights import read_weights, write_weights

CANARY_TOKENS = 16
"""Tokens of the canary that are compared."""


class Weights(Protocol):
    """Weights on their way to an engine."""

    def read(self) -> Mapping[str, Tensor]:
        """Every tensor by name, where the engine runs; raises InputError."""
        ...

    def opened(self, place: str) -> AbstractContextManager[Path]:
        """A folder of them, where the engine runs, for as long as the block lasts: in `place`, if it is made for that,
        or where temporary files are."""
        ...

    def drop(self) -> None:
        """Nobody reads them any more."""
        ...


@dataclass(frozen=True, slots=True)
class InFolder:
    """Weights in a folder that all who sample can read."""

    folder: Path

    def read(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
        return read_weights(self.folder)

    @contextmanager
    def opened(self, place: str) -> Iterator[Path]:
        """The folder itself."""
        yield self.folder

    def drop(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def in_folder(weights: Mapping[str, Tensor], place: Path) -> InFolder:
    """A copy of the weights, in a new folder: what somebody may have mapped is not written to."""
    folder = Path(tempfile.mkdtemp(dir=place))
    write_weights(folder, weights)
    return InFolder(folder)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights as they were at one moment, and what the learner made of the canary with them."""

    weights: Weights
    version: int
    canary: tuple[int, ...]
    expected: tuple[float, ...]

    def check(self, version: int | str, canary: Sequence[float], tolerance: float) -> None:
        """Raise RunFailed unless an engine that has this version, and this to say of the canary, has these weights.

        `tolerance` is in nats a token on average.
        """
        if str(version) != str(self.version):
            found = f"version {version} instead of {self.version}"
            raise RunFailed("an engine did not take the new weights", found=found)
        apart = gap(canary, self.expected)
        if not apart <= tolerance:
            raise RunFailed(
                f"an engine does not sample from version {self.version} of the weights",
                found=f"log-probabilities of the canary differ by {apart:.3g} nats a token, over {tolerance:g}",
                hint="the weights did not arrive as they are, or its number format is too coarse: sample in float32, or"
                " with the built-in engine in this process",
            )


def snapshot_of(weights: Weights, version: int, learner: Any, tokenizer: Tokenizer, max_len: int) -> Snapshot:
    """A copy of the learner's weights beside what the learner makes of the canary."""
    canary = tokenizer.encode(CANARY)[: min(CANARY_TOKENS, max_len)]
    return Snapshot(weights, version, tuple(canary), tuple(text_logprobs(learner, canary)))
