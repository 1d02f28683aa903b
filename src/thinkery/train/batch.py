"""Sequences to learn from, laid end to end in micro-batches without padding.

Training sorts by length and packs (R1 v2 §B.1): sequences of similar length share a micro-batch, the longest
come first, so a batch that does not fit in memory is met at the start of an update and not at its end. Attempts at
one question may share its prompt (`pack_shared`): it is then computed once, not once for each of them.

Shapes: T tokens of a micro-batch, C of them learnt ("completion tokens").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinkery.model.attention import Attend, packed_causal
from thinkery.model.shared import Group, shared_causal, shared_positions
from thinkery.model.transformer import Transformer
from thinkery.train.mixed import MixedTransformer

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence: its first `learn_from` tokens are given, every later token is learnt.

    `learn_from` is at least 1, because the first token has nothing to be predicted from. `reward` is what the
    sequence earned; `advantage` is one number for all its learnt tokens (GRPO) or one for each (PPO). The other
    fields hold one number for each learnt token, or nothing where they are not needed. Three are log-probabilities:
    `old` of the policy that the ratio is taken against, `reference` of the frozen model of the KL term, `sampler` as
    the engine reported them. Two are PPO's: `values` as the critic saw them at sampling, `returns` as it should have.
    """

    tokens: Sequence[int] | np.ndarray
    learn_from: int = 1
    reward: float = 0.0
    advantage: float | np.ndarray = 0.0
    old: Numbers = ()
    reference: Numbers = ()
    sampler: Numbers = ()
    values: Numbers = ()
    returns: Numbers = ()

    @property
    def learnt(self) -> int:
        """How many tokens are learnt."""
        return len(self.tokens) - self.learn_from


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: several examples end to end, with the learnt tokens picked out.

    Every `_C` field lists the learnt tokens sequence by sequence.
    """

    tokens_T: Tensor
    """Token ids (int64): of each group the prompt, then what is learnt after it."""
    groups: tuple[Group, ...]
    """Given tokens, and learnt tokens of each sequence after them; a sequence that shares nothing is a group of one."""
    predictors_C: Tensor
    """Where in T the hidden state stands that predicts each learnt token."""
    labels_C: Tensor
    """The learnt tokens."""
    advantages_C: Tensor
    """The advantage of each learnt token."""
    old_C: Tensor | None
    """Log-probabilities under the policy that the ratio is taken against; none where that is the policy as it is."""
    reference_C: Tensor | None
    """Log-probabilities under the frozen reference."""
    sampler_C: Tensor | None
    """Log-probabilities that the engine reported."""
    values_C: Tensor | None
    """The critic's values at sampling."""
    returns_C: Tensor | None
    """What the critic should have expected."""
    examples: tuple[int, ...]
    """The place of each sequence in the list that was packed."""

    @property
    def learnt(self) -> tuple[int, ...]:
        """Learnt tokens of each sequence; they sum to C."""
        return tuple(part for _, parts in self.groups for part in parts)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence with its prompt; they sum to T where no prompt is shared."""
        return tuple(prompt + part for prompt, parts in self.groups for part in parts)

    def hidden(self, network: Any) -> Tensor:
        """hidden_TD of the network on these tokens."""
        if isinstance(network, MixedTransformer):
            return network.hidden(self.tokens_T, self.groups)
        if self.alone:
            return network.packed(self.tokens_T, self.lengths)
        return network(self.tokens_T, self.positions(), self.attend())

    @property
    def alone(self) -> bool:
        """Whether no sequence shares its prompt."""
        return all(len(parts) == 1 for _, parts in self.groups)

    def positions(self) -> Tensor:
        """positions_T: every sequence goes on where its prompt ends."""
        return shared_positions(self.groups, self.tokens_T.device)

    def attend(self) -> Attend:
        """How the tokens see each other."""
        device = self.tokens_T.device
        return packed_causal(self.lengths, device) if self.alone else shared_causal(self.groups, device)


def pack(examples: Sequence[Example], max_tokens: int, device: torch.device | str = "cpu") -> list[Batch]:
    """Micro-batches of at most `max_tokens` tokens, the longest sequences first; a longer sequence stands alone."""
    packed = arrange([len(e.tokens) for e in examples], max_tokens)
    return [collate(examples, [[place] for place in places], device) for places in packed]


def pack_shared(examples: Sequence[Example], max_tokens: int, device: torch.device | str = "cpu") -> list[Batch]:
    """The same, with sequences after one prompt laid out behind it together, as far as they fit into `max_tokens`."""
    by_prompt: dict[bytes, list[int]] = {}
    for place, example in enumerate(examples):
        prompt = np.asarray(example.tokens[: example.learn_from], dtype=np.int64)
        by_prompt.setdefault(prompt.tobytes(), []).append(place)
    groups = []
    for places in by_prompt.values():
        room = max_tokens - examples[places[0]].learn_from
        fitting = arrange([examples[place].learnt for place in places], room)
        groups += [[places[i] for i in some] for some in fitting]
    sizes = [examples[group[0]].learn_from + sum(examples[i].learnt for i in group) for group in groups]
    return [collate(examples, [groups[i] for i in some], device) for some in arrange(sizes, max_tokens)]


def packing(network: Any) -> Callable[..., list[Batch]]:
    """How a network's sequences are packed: our own decoder can share prompts, an adapted model cannot."""
    return pack_shared if isinstance(network, Transformer) else pack


def arrange(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """The places of the sequences that share a micro-batch, sorted from long to short."""
    shared: list[int] = []
    room = max_tokens
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if shared and lengths[place] > room:
            yield shared
            shared, room = [], max_tokens
        shared.append(place)
        room -= lengths[place]
    if shared:
        yield shared


def collate(examples: Sequence[Example], groups: Sequence[Sequence[int]], device: torch.device | str) -> Batch:
    """One micro-batch of the examples at these places, group by group; those of a group have the same prompt."""
    places = [place for group in groups for place in group]
    chosen = [examples[place] for place in places]
    tokens: list[Sequence[int] | np.ndarray] = []
    predictors, learnt, at = [], [], 0
    for group in groups:
        given = examples[group[0]].learn_from
        tokens.append(examples[group[0]].tokens[:given])
        before, at = at + given - 1, at + given
        for place in group:
            tokens.append(examples[place].tokens[given:])
            own = np.arange(at, at + examples[place].learnt)
            learnt.append(own)
            predictors += [np.array([before])[: len(own)], own[:-1]]  # the prompt's end predicts the first of each
            at += len(own)
    tokens_T = torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.int64) for part in tokens])).to(device)
    advantages = np.concatenate([np.broadcast_to(np.asarray(e.advantage, dtype=np.float32), e.learnt) for e in chosen])
    return Batch(
        tokens_T=tokens_T,
        groups=tuple((examples[group[0]].learn_from, tuple(examples[i].learnt for i in group)) for group in groups),
        predictors_C=torch.from_numpy(np.concatenate(predictors)).to(device),
        labels_C=tokens_T[torch.from_numpy(np.concatenate(learnt)).to(device)],
        advantages_C=torch.from_numpy(advantages).to(device),
        old_C=joined([e.old for e in chosen], device),
        reference_C=joined([e.reference for e in chosen], device),
        sampler_C=joined([e.sampler for e in chosen], device),
        values_C=joined([e.values for e in chosen], device),
        returns_C=joined([e.returns for e in chosen], device),
        examples=tuple(places),
    )


def joined(parts: Sequence[Numbers], device: torch.device | str) -> Tensor | None:
    """The parts end to end as float32; None when the examples do not carry this field."""
    if not any(len(part) for part in parts):
        return None
    return torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])).to(device)


def per_example(count: int, batches: Iterable[Batch], compute: Callable[[Batch], Tensor]) -> list[list[float]]:
    """What `compute` gives for every learnt token (its result is a `_C` tensor), for each of the packed examples."""
    found: list[list[float]] = [[] for _ in range(count)]
    for batch in batches:
        for place, part in zip(batch.examples, compute(batch).cpu().split(batch.learnt), strict=True):
            found[place] = part.tolist()
    return found
