"""The work that every contender does; plain Python, because vLLM's environment has nothing of ours."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

PROMPT_TOKENS = 100
ROUNDS = 16
"""Different prompts for every run, so that no cache can answer for an earlier one."""


@dataclass(frozen=True)
class Work:
    """Prompts with the number of samples after each, or texts to imitate."""

    kind: str
    """sample, greedy, grpo or sft."""
    prompts: int
    samples: int = 1
    new_tokens: int = 0
    uneven: bool = False

    @property
    def sequences(self) -> int:
        """How many there are in one run."""
        return self.prompts * self.samples

    def lengths(self) -> list[int]:
        """New tokens of every sample (or tokens of every text), prompt by prompt; the same in every run."""
        if not self.uneven:
            return [self.new_tokens] * self.sequences
        shortest = 64 if self.kind == "sft" else 32
        steps = max(1, self.sequences - 1)
        spread = [round(shortest * (self.new_tokens / shortest) ** (i / steps)) for i in range(self.sequences)]
        random.Random(0).shuffle(spread)
        return spread

    @property
    def tokens(self) -> int:
        """New tokens of one run."""
        return sum(self.lengths())


WORKS = {
    "sample-64": Work("sample", prompts=8, samples=8, new_tokens=128),
    "sample-8": Work("sample", prompts=8, new_tokens=128),
    "sample-1": Work("sample", prompts=1, new_tokens=128),
    "greedy": Work("greedy", prompts=8, samples=2, new_tokens=32),
    "grpo": Work("grpo", prompts=4, samples=8, new_tokens=128),
    "grpo-uneven": Work("grpo", prompts=4, samples=8, new_tokens=512, uneven=True),
    "sft": Work("sft", prompts=16, new_tokens=1024, uneven=True),
}


def short(work: Work) -> Work:
    """A small piece of the same work, for warming up."""
    if work.kind == "sft":
        return replace(work, prompts=2, new_tokens=128)
    return replace(work, prompts=1, new_tokens=16, uneven=False)


@dataclass(frozen=True)
class Material:
    """Token ids that stand for one word each, so that text and tokens are the same thing for every tokenizer call."""

    folder: str
    words: list[int]

    def prompt(self, number: int, run: int) -> list[int]:
        """Prompt `number` of a run."""
        return random.Random(f"{run}/{number}").choices(self.words, k=PROMPT_TOKENS)

    def prompts(self, work: Work, run: int) -> list[list[int]]:
        """All prompts of a run."""
        return [self.prompt(number, run) for number in range(work.prompts)]

    def texts(self, work: Work, run: int) -> list[list[int]]:
        """Texts to imitate, of the work's lengths."""
        draw = random.Random(run)
        return [draw.choices(self.words, k=length) for length in work.lengths()]

    def save(self, path: Path) -> None:
        """For contenders in other environments."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Material:
        """What `save` wrote."""
        return cls(**json.loads(path.read_text()))
