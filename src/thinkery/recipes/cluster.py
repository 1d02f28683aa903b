"""What a recipe's RL would take on 8 to 1,024 GPUs, by simulation: `thinkery plan r1 --cluster`.

The samples of one update get lengths from a log-normal distribution, as long-tailed as reasoning is, and go to engines,
one on each GPU, that continue as many at a time as their cache holds. A token of b samples takes the longer of
computing 2 P b flops and reading the weights, the reading of the cache, and what every sample takes besides; a group's
prompt is computed once. With `grpo.spare` the samples of several
updates are in flight, as `train/flights.py` has them.

Then all GPUs learn their share of the tokens, a group's prompt counted once: what `arithmetic.py` counts forward, back
and in the reference, by the settings of `policy`. Sharded, the weights go over the network for every micro-batch, once
for each pass and once as gradients, block by block (FSDP2); replicated, gradients alone are summed, once an update. A
GPU holds what `learner_bytes` says (the rest is in its machine's memory, `policy.offload`), and beside it in turn the
activations of a micro-batch or the engine's cache. Products in bfloat16 have a rate of their own.

The rates are assumed, not measured: a share of what the makers of a GPU promise. Nothing here was run on one; on a
small network and two cores `bench/cluster.py` sets it beside the clock. Left out are what is gathered of weights while
a block computes, what ranks exchange that split sequences, and what questions that are carried over read once more.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from thinkery.model.transformer import Shape
from thinkery.pipeline.step import Step, ordered
from thinkery.recipes.arithmetic import (
    activation_bytes,
    adapter_parameters,
    cache_bytes,
    in_format,
    learner_bytes,
    learning_flops,
    lora_of,
    micro_batches,
    offloads,
    parameters,
    splits,
)
from thinkery.recipes.expected import Expected
from thinkery.recipes.plan import PROMPT_TOKENS, longest_of, mean_completion, shape_of
from thinkery.stages.reinforce import Reinforce
from thinkery.train.grpo import Grpo
from thinkery.train.held import parts_of, serves

TAIL = 0.8
"""The standard deviation of the logarithm of a completion's length."""
WARM, MEASURED = 8, 8
"""Updates that are simulated where questions are carried over, and those of them that are counted, the last."""
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""GPUs of the clusters that are compared."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What one GPU does; the defaults are about 40 % of an H100's arithmetic and 60 % of its memory traffic."""

    flops: float = 2e14
    """In float32, by products in TF32."""
    bfloat16_flops: float = 4e14
    bandwidth: float = 2e12
    memory: float = 80e9
    network: float = 25e9
    """Bytes a second to other machines."""
    collective_s: float = 5e-5
    """What a call among all GPUs costs at least, with what FSDP2 does for it."""
    host: float = 25e9
    """Bytes a second to the memory of its machine."""
    latency_s: float = 0.002
    """What a token costs at least, whatever is computed."""
    sample_s: float = 5e-6
    """What each sample adds to that: drawing it, and the books kept of it."""
    price: float = 2.5
    """Of an hour."""

    def multiplies(self, dtype: str) -> tuple[float, int]:
        """Operations a second in a format, and its bytes a number; "fastest" and "model" as the engine means them."""
        return in_format(dtype, self.flops, self.bfloat16_flops)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A step of RL on so many GPUs."""

    gpus: int
    update_s: float
    tokens_per_s: float
    utilisation: float
    """The share of the GPUs' arithmetic that sampling and learning need."""
    memory: float
    """Of the fullest GPU, in bytes."""
    hours: float
    cost: float
    limit: str
    """What takes the most time."""
    fits: bool
    """Whether a GPU holds its part of the learner with the activations, and with the cache of one sample, and has as
    many heads as any other where sequences are split; otherwise only the memory means anything."""


def estimates(
    steps: Mapping[str, Step], gpu: Gpu, fill: float, expected: Expected | None = None
) -> dict[str, list[Estimate]]:
    """Every step of RL in a graph, on clusters of all sizes."""
    found: dict[str, list[Estimate]] = {}
    for step in ordered(steps):
        shape = shape_of(step)
        if shape and isinstance(step.config, Reinforce):
            share = mean_completion(step, expected or Expected(), fill) / longest_of(step.config.grpo)
            found[step.name] = [estimate(step.config, shape, gpu, gpus, share) for gpus in SIZES]
    return found


def estimate(cfg: Reinforce, shape: Shape, gpu: Gpu, gpus: int, fill: float) -> Estimate:
    """Simulate one update, of which the step has `cfg.grpo.updates`."""
    g, P, longest = cfg.grpo, parameters(shape), longest_of(cfg.grpo)
    lengths = draw_lengths(g.questions_per_update * g.group_size, fill * longest, longest)
    rate, size = gpu.multiplies(cfg.engine.dtype)
    learner, _ = learner_bytes(shape, g.policy, gpus, reference=g.beta > 0, sampled=size)
    activations = activation_bytes(shape, g.policy, PROMPT_TOKENS + longest, gpus, gpu=True)
    in_parts = parts_of(g.policy, gpus) > 1
    copied = 0 if in_parts or serves(g.policy, size) else size * P
    sample = cache_bytes(shape, size) * (PROMPT_TOKENS + longest)
    slots = int((gpu.memory - learner - copied) / sample)
    held = learner + max(activations, copied + max(1, min(slots, len(lengths) // gpus)) * sample)
    seconds = phases(cfg, shape, gpu, gpus, lengths, max(1, slots))
    if g.spare:
        seconds |= carried(cfg, shape, gpu, gpus, fill * longest, longest, max(1, slots))
    update_s = sum(seconds.values())
    dealt = not splits(g.policy) or shape.num_key_value_heads % gpus == 0
    fits = dealt and slots > 0 and learner + activations <= gpu.memory
    slowest = max(seconds, key=lambda name: seconds[name])
    limit = slowest if fits else "memory" if dealt else "heads"
    hours = g.updates * update_s / 3600
    useful = (2 * P * sum(lengths) / rate / gpus + seconds["learning"]) / update_s
    return Estimate(
        gpus, update_s, sum(lengths) / update_s, useful, held, hours, hours * gpus * gpu.price, limit, fits
    )  # fmt: skip


def phases(
    cfg: Reinforce,
    shape: Shape,
    gpu: Gpu,
    gpus: int,
    lengths: Sequence[int],
    slots: int,
    prompt: float = PROMPT_TOKENS,
) -> dict[str, float]:
    """Seconds of each phase of an update that learns from completions of these lengths, each group after one prompt."""
    policy = cfg.grpo.policy
    tokens = learnt_tokens(cfg.grpo, lengths, prompt)
    length = tokens / len(lengths) / (gpus if splits(policy) else 1)
    batches = math.ceil(micro_batches(policy, tokens / gpus, length))
    ends = [
        sampling_s(lengths[n::gpus], slots, shape, gpu, prompt, cfg.engine.dtype)
        for n in range(min(gpus, len(lengths)))
    ]
    reading = reading_s(cfg, shape, gpu, len(lengths) / cfg.grpo.group_size * prompt)
    work = learning_work(cfg.grpo, shape, lengths, prompt)
    return {
        "sampling": (sum(ends) + reading) / gpus,
        "the longest samples": max(ends) - sum(ends) / gpus,
        "learning": work / gpu.multiplies(policy.dtype)[0] / gpus,
        "weights and gradients": network_s(cfg.grpo, shape, gpu, gpus, batches) if gpus > 1 else 0.0,
        "off-loading": offloading_s(cfg.grpo, shape, gpu, gpus, batches) if offloads(policy) else 0.0,
    }


def reading_s(cfg: Reinforce, shape: Shape, gpu: Gpu, tokens: float) -> float:
    """Seconds in which one GPU computes so many tokens of prompts."""
    return tokens * 2 * parameters(shape) / gpu.multiplies(cfg.engine.dtype)[0]


def learnt_tokens(g: Grpo, lengths: Sequence[int], prompt: float) -> float:
    """Tokens that pass through the network when completions of these lengths are learnt: a group's prompt once."""
    return sum(lengths) + prompt * len(lengths) / g.group_size


def learning_work(g: Grpo, shape: Shape, lengths: Sequence[int], prompt: float) -> float:
    """Operations of learning from completions of these lengths, on all GPUs together."""
    each = learning_flops(shape, g.policy, seen(lengths, prompt), reference=g.beta > 0)
    return learnt_tokens(g, lengths, prompt) * each


def seen(lengths: Sequence[int], prompt: float) -> float:
    """The length of the sequence that a token stands in, on average over tokens: longer ones have more of them."""
    return sum((prompt + n) ** 2 for n in lengths) / sum(prompt + n for n in lengths)


def network_s(g: Grpo, shape: Shape, gpu: Gpu, gpus: int, batches: int) -> float:
    """Seconds of an update in which weights and gradients are on their way between GPUs, in so many micro-batches."""
    P, blocks = parameters(shape), shape.num_hidden_layers + 1
    if parts_of(g.policy, gpus) == 1:
        lora = lora_of(g.policy)
        gradients = 4 * (adapter_parameters(shape, lora) if lora else P)
        return 2 * gradients / gpu.network + blocks * gpu.collective_s  # to be summed, and the sums back
    passes = 4 if g.beta > 0 else 3  # forward, back, the gradient, and forward in the reference
    return (passes * batches + 1) * 4 * P / gpu.network + passes * batches * blocks * gpu.collective_s


def offloading_s(g: Grpo, shape: Shape, gpu: Gpu, gpus: int, batches: int) -> float:
    """Seconds of an update in which weights and gradients are on their way to and from the machine's memory."""
    parts = parts_of(g.policy, gpus)
    ways = 2 if parts == 1 else (4 if g.beta > 0 else 3) * batches
    return ways * 4 * parameters(shape) / parts / gpu.host


def carried(
    cfg: Reinforce, shape: Shape, gpu: Gpu, gpus: int, mean: float, longest: int, slots: int
) -> dict[str, float]:
    """Seconds of an update's sampling where questions are carried over, once as many are in flight as will ever be."""
    busy = waits = 0.0
    for spans in list(flown(cfg.grpo, mean, longest))[-MEASURED:]:
        for lengths in spans:
            dealt = [lengths[n::gpus] for n in range(min(gpus, len(lengths)))]
            ends = [sampling_s(some, slots, shape, gpu, dtype=cfg.engine.dtype) for some in dealt]
            busy, waits = busy + sum(ends) / gpus, waits + max(ends) - sum(ends) / gpus
    reading = reading_s(cfg, shape, gpu, cfg.grpo.questions_per_update * PROMPT_TOKENS) / gpus
    return {"sampling": busy / MEASURED + reading, "the longest samples": waits / MEASURED}


def flown(g: Grpo, mean: float, longest: int) -> Iterator[list[list[int]]]:
    """Of each of some updates in a row the spans, each as the tokens by which every open sample gets longer."""
    G, needed, span = g.group_size, g.questions_per_update, g.span or max(1, longest // 16)
    drawn = draw_lengths(((WARM + MEASURED) * needed + g.spare) * G, mean, longest)
    asked = iter(drawn[n : n + G] for n in range(0, len(drawn), G))
    open_ones: list[list[int]] = []
    for _ in range(WARM + MEASURED):
        open_ones += islice(asked, needed + g.spare - len(open_ones))
        spans, missing = [], needed
        while missing:
            spans.append([min(left, span) for group in open_ones for left in group if left > 0])
            open_ones = [[left - span for left in group] for group in open_ones]
            ended = [n for n, group in enumerate(open_ones) if max(group) <= 0][:missing]
            open_ones = [group for n, group in enumerate(open_ones) if n not in ended]
            missing -= len(ended)
        yield [lengths for lengths in spans if lengths]


def draw_lengths(count: int, mean: float, longest: int) -> list[int]:
    """Lengths of completions, with that mean before those that are too long are cut."""
    rng = random.Random(0)
    centre = math.log(mean) - TAIL**2 / 2
    return [max(1, min(longest, round(rng.lognormvariate(centre, TAIL)))) for _ in range(count)]


def sampling_s(
    lengths: Sequence[int],
    slots: int,
    shape: Shape,
    gpu: Gpu,
    prompt: float = PROMPT_TOKENS,
    dtype: str = "model",
) -> float:
    """Seconds in which one engine samples completions of these lengths, `slots` at a time."""
    cached = cache_bytes(shape, gpu.multiplies(dtype)[1]) * (prompt + sum(lengths) / len(lengths) / 2)
    waiting, ends, at, seconds = list(reversed(lengths)), [], 0, 0.0
    while waiting or ends:
        while waiting and len(ends) < slots:
            heapq.heappush(ends, at + waiting.pop())
        b, tokens = len(ends), ends[0] - at
        seconds += tokens * token_s(b, cached, shape, gpu, dtype)
        at = heapq.heappop(ends)
    return seconds


def token_s(samples: int, cached: float, shape: Shape, gpu: Gpu, dtype: str = "model") -> float:
    """Seconds in which an engine gives each of so many samples one more token; each reads `cached` bytes."""
    P, (flops, size) = parameters(shape), gpu.multiplies(dtype)
    arithmetic = max(2 * P * samples / flops, size * P / gpu.bandwidth)
    return arithmetic + samples * (cached / gpu.bandwidth + gpu.sample_s) + gpu.latency_s
