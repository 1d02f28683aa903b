"""Thinkery: sampling in bfloat16 with the built-in engine, training in bfloat16, with weights in float32 by default.

options: dtype (of sampling: bfloat16 or float32), quantization (of sampling: none or int8), weights, activations and
micro (of learning, as `policy` has them; micro is in tokens), model (a folder in the place of the one that all have).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.peers.work import ROUNDS, Material, Work, short
from bench.peers.worker import Turns, told
from thinkery.core import Completion, Sampling, Task
from thinkery.engine import EngineConfig, NativeEngine, Request, generate, open_engine
from thinkery.model.hf import load_model
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import rollouts
from thinkery.train.baseline import GroupBaseline
from thinkery.train.batch import Example, pack
from thinkery.train.grpo import Grpo, Slot, compare, learn
from thinkery.train.optim import PolicyConfig, Update
from thinkery.train.policy import Policy
from thinkery.train.sft import cross_entropy

VERBATIM = "{{ messages[-1].content }}"


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """Sampling, the likeliest tokens, GRPO updates or supervised updates."""
    torch.set_num_threads(threads)
    {"sample": sample, "greedy": sample, "grpo": grpo, "sft": sft}[work.kind](turns, work, material, options)


def sample(turns: Turns, work: Work, material: Material, options: dict[str, str]) -> None:
    """Continue prompts; the likeliest tokens are always the same, so they can be compared with other contenders'."""
    network, tokenizer = load_model(options.get("model", material.folder))
    network.requires_grad_(False).to(options["device"])
    with open_engine(network, tokenizer, sampling(options, **room(options["device"]))) as engine:
        engine.eos_ids = frozenset()

        def once(work: Work, number: int) -> dict[str, Any]:
            how = Sampling(temperature=float(work.kind != "greedy"), max_tokens=work.new_tokens)
            seeds = tuple(range(work.samples))
            requests = [Request(seeds, how, prompt=tuple(tokens)) for tokens in material.prompts(work, number)]
            found = dict(generate(engine, requests))
            said = [event.completion for i in range(len(requests)) for event in found[i]]
            return told(work, [list(each.tokens) for each in said if each])

        once(short(work), -1)
        turns.timed(partial(once, work))


def grpo(turns: Turns, work: Work, material: Material, options: dict[str, str]) -> None:
    """One update: ask, judge, learn, hand the engine the new weights."""
    policy = opened(material, options)
    cfg = Grpo(
        policy=policy.cfg,
        updates=ROUNDS,
        group_size=work.samples,
        beta=0.0,
        max_tokens=((0, work.new_tokens),),
        minibatches=1,
        old_logprobs="trainer",
    )
    rubric = Rubric(vowels=vowels)
    with open_engine(policy.network, policy.tokenizer, sampling(options, **room(options["device"]))) as engine:
        engine.eos_ids = frozenset()

        def once(work: Work, number: int) -> dict[str, Any]:
            tasks = [
                Task(f"{number}/{i}", policy.tokenizer.decode(prompt), chat_template=VERBATIM)
                for i, prompt in enumerate(material.prompts(work, number))
            ]
            how = Sampling(max_tokens=work.new_tokens)
            with ending_at(engine, work):
                groups = list(rollouts(engine, tasks, how, rubric, samples=work.samples, seed=number))
            slots = compare(cfg, policy, GroupBaseline("group_std"), [Slot(group) for group in groups])
            engine.rest()  # as `thinkery.train.grpo.grpo` does
            update = learn(cfg, policy, [example for slot in slots for example in slot.learnt], fresh=True)
            engine.bump(policy.version)
            tokens = sum(len(rollout.completion.tokens) for group in groups for rollout in group.rollouts)
            return {"tokens": tokens, "mismatch_kl": update.sums["mismatch_kl"] / update.sums["tokens"]}

        once(short(work), -1)
        turns.timed(partial(once, work))


def room(device: str) -> dict[str, int]:
    """As much as the work takes at most, on a GPU, so that steps are recorded there."""
    return {"max_batch": 64, "max_len": 1024} if device == "cuda" else {}


def sampling(options: dict[str, str], **room: int) -> EngineConfig:
    """How the engine samples."""
    return EngineConfig.model_validate(
        {"dtype": options.get("dtype", "bfloat16"), "quantization": options.get("quantization", "none"), **room}
    )


def sft(turns: Turns, work: Work, material: Material, options: dict[str, str]) -> None:
    """One update on whole texts."""
    policy = opened(material, options)

    def once(work: Work, number: int) -> dict[str, Any]:
        imitate(policy, [Example(np.array(text, np.int32)) for text in material.texts(work, number)])
        return {"tokens": work.tokens}

    once(short(work), -1)
    turns.timed(partial(once, work))


def imitate(policy: Policy, examples: list[Example]) -> Update:
    """One supervised update."""
    learnt = sum(example.learnt for example in examples)
    objective = cross_entropy(policy, learnt)
    return policy.update(partial(pack, examples, device=policy.device), objective, total=ROUNDS)


def opened(material: Material, options: dict[str, str]) -> Policy:
    """The model, ready to learn."""
    network, tokenizer = load_model(material.folder)
    network.to(options["device"])
    settings = {name: options[name] for name in ("weights", "activations") if name in options}
    micro = int(options.get("micro", 1152))
    chunk = 2**26 if options["device"] == "cpu" else None
    cfg = PolicyConfig.model_validate(
        {"lr": 1e-6, "dtype": "bfloat16", "micro_batch_tokens": micro, "logits_chunk": chunk, **settings}
    )
    return Policy(network, tokenizer, cfg)


def vowels(task: Task, completion: Completion) -> float:
    """The share of one letter: cheap, and different from sample to sample."""
    return completion.text.count("e") / max(1, len(completion.text))


class Countdown:
    """Ends a sample after so many tokens, in the place of a search for stop strings."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens

    def found(self, token: int) -> bool:
        """Whether this was the last."""
        self.left -= 1
        return self.left <= 0


@contextmanager
def ending_at(engine: NativeEngine, work: Work) -> Iterator[None]:
    """Every sample of the requests that are submitted meanwhile gets the length that the work says."""
    lengths, submit = iter(work.lengths()), engine.submit

    def submitting(request: Request) -> str:
        id = submit(request)
        for sample in engine.scheduler.queue[-1].waiting:
            sample.stops = Countdown(next(lengths))  # pyright: ignore[reportAttributeAccessIssue]
        return id

    engine.submit = submitting
    try:
        yield
    finally:
        engine.submit = submit
