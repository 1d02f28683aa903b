"""What a recipe's RL would take on 8 to 1,024 GPUs, by simulation: `thinkery plan r1 --cluster`.

The samples of one update get lengths from a log-normal distribution, as long-tailed as reasoning is, and go to engines,
one on each GPU, that continue as many at a time as their cache holds. A token of b samples takes the longer of
computing 2 P b flops and reading the weights, and the reading of the cache. With `grpo.spare` the samples of several
updates are in flight, as `train/flights.py` has them.

Then all GPUs learn, each 8 P flops for its share of the tokens (forward, back, reference); for every micro-batch the
weights go over the network three times and the gradient once, block by block (FSDP2). As the code does
(`train/policy.py`), everything is float32: a GPU holds its part of 20 P bytes, or its machine's memory does
(`policy.offload`), and the 4 P of whole weights to sample from.

The rates are assumed, not measured: a share of what the makers of a GPU promise. Nothing here was run on one; on a
small network and two cores `bench/cluster.py` sets it beside the clock.
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
from thinkery.recipes.plan import PROMPT_TOKENS, cache_bytes, offloads, parameters, shape_of
from thinkery.stages.reinforce import Reinforce
from thinkery.train.grpo import Grpo

TAIL = 0.8
"""The standard deviation of the logarithm of a completion's length."""
WARM, MEASURED = 8, 8
"""Updates that are simulated where questions are carried over, and those of them that are counted, the last."""
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""GPUs of the clusters that are compared."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What one GPU does; the defaults are about 40 % of an H100's TF32 arithmetic and 60 % of its memory traffic."""

    flops: float = 2e14
    bandwidth: float = 2e12
    memory: float = 80e9
    network: float = 25e9
    """Bytes a second to other machines."""
    collective_s: float = 5e-5
    """What a call among all GPUs costs at least."""
    host: float = 25e9
    """Bytes a second to the memory of its machine."""
    latency_s: float = 0.002
    """What a token costs at least, whatever is computed."""
    price: float = 2.5
    """Of an hour."""


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
    """Whether whole weights, a part of the learner and the cache of one sample fit a GPU; otherwise only the memory
    means anything."""


def estimates(steps: Mapping[str, Step], gpu: Gpu, fill: float) -> dict[str, list[Estimate]]:
    """Every step of RL in a graph, on clusters of all sizes."""
    found: dict[str, list[Estimate]] = {}
    for step in ordered(steps):
        shape = shape_of(step)
        if shape and isinstance(step.config, Reinforce):
            found[step.name] = [estimate(step.config, shape, gpu, gpus, fill) for gpus in SIZES]
    return found


def estimate(cfg: Reinforce, shape: Shape, gpu: Gpu, gpus: int, fill: float) -> Estimate:
    """Simulate one update, of which the step has `cfg.grpo.updates`."""
    g, P = cfg.grpo, parameters(shape)
    longest = max(tokens for start, tokens in g.max_tokens if start < g.updates)
    lengths = draw_lengths(g.questions_per_update * g.group_size, fill * longest, longest)
    parts = 0 if offloads(g.policy) else 20 * P / gpus
    room = gpu.memory - 4 * P - parts
    slots = int(room / (cache_bytes(shape) * (PROMPT_TOKENS + longest)))
    held = gpu.memory - room + max(1, min(slots, len(lengths) // gpus)) * cache_bytes(shape) * (PROMPT_TOKENS + longest)
    tokens = sum(lengths) + PROMPT_TOKENS * len(lengths)
    seconds = phases(g, shape, gpu, gpus, lengths, max(1, slots))
    if g.spare:
        seconds |= carried(g, shape, gpu, gpus, fill * longest, longest, max(1, slots))
    update_s = sum(seconds.values())
    limit = max(seconds, key=lambda name: seconds[name]) if slots > 0 else "memory"
    hours = g.updates * update_s / 3600
    useful = 10 * P * tokens / gpu.flops / gpus / update_s
    rate, cost = sum(lengths) / update_s, hours * gpus * gpu.price
    return Estimate(gpus, update_s, rate, useful, held, hours, cost, limit, fits=slots > 0)


def phases(
    g: Grpo, shape: Shape, gpu: Gpu, gpus: int, lengths: Sequence[int], slots: int, prompt: float = PROMPT_TOKENS
) -> dict[str, float]:
    """Seconds of each phase of an update that learns from completions of these lengths."""
    P, tokens = parameters(shape), sum(lengths) + prompt * len(lengths)
    batches = math.ceil(tokens / gpus / max(g.policy.micro_batch_tokens, tokens / len(lengths)))
    calls = 4 * batches * (shape.num_hidden_layers + 1) * gpu.collective_s
    ends = [sampling_s(lengths[n::gpus], slots, shape, gpu, prompt) for n in range(min(gpus, len(lengths)))]
    return {
        "sampling": sum(ends) / gpus,
        "the longest samples": max(ends) - sum(ends) / gpus,
        "learning": 8 * P * tokens / gpu.flops / gpus,
        "weights and gradients": (4 * batches + 1) * 4 * P / gpu.network + calls if gpus > 1 else 0.0,
        "off-loading": 4 * batches * 4 * P / gpus / gpu.host if offloads(g.policy) else 0.0,
    }


def carried(g: Grpo, shape: Shape, gpu: Gpu, gpus: int, mean: float, longest: int, slots: int) -> dict[str, float]:
    """Seconds of an update's sampling where questions are carried over, once as many are in flight as will ever be."""
    busy = waits = 0.0
    for spans in list(flown(g, mean, longest))[-MEASURED:]:
        for lengths in spans:
            ends = [sampling_s(lengths[n::gpus], slots, shape, gpu) for n in range(min(gpus, len(lengths)))]
            busy, waits = busy + sum(ends) / gpus, waits + max(ends) - sum(ends) / gpus
    return {"sampling": busy / MEASURED, "the longest samples": waits / MEASURED}


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


def sampling_s(lengths: Sequence[int], slots: int, shape: Shape, gpu: Gpu, prompt: float = PROMPT_TOKENS) -> float:
    """Seconds in which one engine samples completions of these lengths, `slots` at a time."""
    cached = cache_bytes(shape) * (prompt + sum(lengths) / len(lengths) / 2)
    waiting, ends, at, seconds = list(reversed(lengths)), [], 0, 0.0
    while waiting or ends:
        while waiting and len(ends) < slots:
            heapq.heappush(ends, at + waiting.pop())
        b, tokens = len(ends), ends[0] - at
        seconds += tokens * token_s(b, cached, shape, gpu)
        at = heapq.heappop(ends)
    return seconds


def token_s(samples: int, cached: float, shape: Shape, gpu: Gpu) -> float:
    """Seconds in which an engine gives each of so many samples one more token; each reads `cached` bytes."""
    P = parameters(shape)
    arithmetic = max(2 * P * samples / gpu.flops, 4 * P / gpu.bandwidth)
    return arithmetic + samples * cached / gpu.bandwidth + gpu.latency_s
