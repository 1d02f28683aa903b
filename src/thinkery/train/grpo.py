"""Group Relative Policy Optimization (R1 v2): the one loop behind zero, reason and align.

    draw tasks ─► rollouts ─► groups ─► advantages ─► packed minibatches ─► updates ─► the engine's new weights

One rollout asks `questions_per_update * minibatches` questions and serves `minibatches` updates. Every update
reports on the groups it learnt from, and every sample is recorded. Checkpoints lie between rollouts: a run that is
asked to stop first spends the rollout it has. A killed run continues bit for bit (on a CPU), because seeds depend
on the run, the epoch, the task and the sample number alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from thinkery.config import Config
from thinkery.core import Group, Rollout, Sampling, Task
from thinkery.engine import NativeEngine
from thinkery.errors import InputError
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import rollouts
from thinkery.train import loss
from thinkery.train.alarms import alarms
from thinkery.train.batch import Batch, Example, pack
from thinkery.train.metrics import group_metrics, has_spread
from thinkery.train.optim import PolicyConfig, Update, resident_bytes
from thinkery.train.policy import Policy
from thinkery.train.preflight import preflight, refuse_ungraded

T = TypeVar("T")
Gains = Sequence[Sequence[float | None]]
"""Advantages by group and attempt."""
Tasks = Sequence[Task] | Callable[[int], Sequence[Task]]
Judge = Rubric | Callable[[int], Rubric]
REMEMBERED = 400
"""Updates of history that the alarms look at."""


class Grpo(Config):
    """Settings of GRPO; the defaults are R1's first stage where it is published."""

    policy: PolicyConfig = PolicyConfig()
    """How the weights learn."""
    updates: int = 10_400
    """Updates in all (R1-Zero: 10,400)."""
    group_size: int = 16
    """Attempts at one question, G."""
    questions_per_update: int = 32
    """Groups that one update learns from (32 x 16 = 512 attempts)."""
    minibatches: int = 16
    """Updates that one rollout serves; samples are up to `minibatches - 1` updates stale."""
    temperature: float = 1.0
    """Sampling temperature; the trainer's probabilities use the same."""
    max_tokens: tuple[tuple[int, int], ...] = ((0, 32_768), (8_200, 65_536))
    """(from this update on, longest completion in tokens), in rising order."""
    clip_low: float = 0.2
    """How far below 1 a ratio may fall before it stops earning (ε in eq. 1; R1-Zero's is not published)."""
    clip_high: float = 0.2
    """How far above 1 a ratio may rise before it stops earning; R1's first RL stage used ε = 10."""
    beta: float = 0.001
    """Weight of the KL term against the reference; 0 keeps no reference."""
    reference_every: int = 400
    """Updates after which the reference becomes the policy."""
    advantage: loss.Advantage = "group_std"
    """How rewards of a group become advantages."""
    ratio: loss.Ratio = "token"
    """What the ratio is of: a token (GRPO), a sequence (GSPO), or a clipped weight (CISPO)."""
    average: loss.Average = "response"
    """How token losses are averaged: per response (GRPO), over all tokens (DAPO), by a constant (Dr.GRPO)."""
    unbiased_kl: bool = False
    """Weight the KL term with the ratio (V3.2)."""
    off_policy_bound: float | None = None
    """Mean log(old / now) beyond which a response with negative advantage is left out (V3.2)."""
    old_logprobs: Literal["sampler", "trainer"] = "sampler"
    """Whose probabilities the ratio is taken against: the sampler's own, right for the built-in engine, or computed
    again by the trainer, for engines whose arithmetic differs."""
    correction_cap: float = 2.0
    """Upper bound of the importance weight trainer / sampler, used with `old_logprobs = "trainer"`."""
    skip_no_spread: bool = False
    """Leave groups with equal rewards out of the forward pass; only their KL term is lost."""
    resample: int = 0
    """Extra questions a rollout may ask to replace groups with equal rewards (DAPO's dynamic sampling)."""
    max_ungraded: float = 0.2
    """Share of attempts without a grade above which the run ends."""
    preflight: int = Field(default=64, json_schema_extra={"key": False})
    """Completions sampled before the first update to see whether RL can learn; 0 leaves this out."""
    keep_rollouts: int = Field(default=1, json_schema_extra={"key": False})
    """Updates between two records of all samples; 0 keeps none."""
    checkpoint_every: int = Field(default=100, json_schema_extra={"key": False})
    """Updates between two checkpoints, moved to the end of their rollout."""
    eval_every: int = Field(default=0, json_schema_extra={"key": False})
    """Updates between two held-out measurements; 0 measures none."""


@dataclass(slots=True)
class Progress:
    """What the loop itself must remember: questions drawn so far, and recent metrics for the alarms."""

    drawn: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    ringing: list[str] = field(default_factory=list)
    """Kinds of alarms that are already known."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One question's place in an update: the group learnt from, and the groups it replaced."""

    group: Group
    replaced: tuple[Group, ...] = ()


def grpo(
    run: Run,
    cfg: Grpo,
    policy: Policy,
    engine: NativeEngine,
    tasks: Tasks,
    rubric: Judge,
    *,
    held_out: Callable[[], Mapping[str, float]] | None = None,
) -> None:
    """Train the policy, from which `engine` samples, on rewards; continues from the run's newest checkpoint.

    `tasks` and `rubric` may be functions of the number of updates done, so that both can change on the way
    (R1's last stage brings preference rewards in for its last 400 updates). `held_out` measures accuracy on
    tasks that are not trained on; its metrics are named `eval/<benchmark>/<metric>`.
    Raises Ungradable when too many attempts have no grade, NotFinite when updates keep failing.
    """
    progress = resume(run, policy)
    engine.bump(policy.version)
    if policy.updates == 0:
        look_ahead(run, cfg, engine, tasks, rubric, held_out)
    checkpoint_s = 0.0
    while policy.updates < cfg.updates:
        started = time.perf_counter()
        updates = min(cfg.minibatches, cfg.updates - policy.updates)
        questions, judge = at(policy.updates, tasks, rubric)
        ask = asking(run, cfg, engine, questions, judge, progress, longest(cfg, policy.updates))
        slots = gather(ask, cfg.questions_per_update * updates, cfg.resample)
        examples = [learnable(slot.group, cfg.advantage) for slot in slots]
        if cfg.old_logprobs == "trainer":
            examples = with_trainer_logprobs(policy, examples, cfg.temperature)
        rollout_s = (time.perf_counter() - started) / updates
        for number, share in enumerate(parts(range(len(slots)), updates)):
            started = time.perf_counter()
            update = learn(cfg, policy, [e for i in share for e in examples[i]], fresh=number == 0)
            engine.bump(policy.version)
            update_s = time.perf_counter() - started
            groups = [g for i in share for g in (*slots[i].replaced, slots[i].group)]
            gains = [advantages(group, cfg.advantage) for group in groups]
            metrics = report(policy, groups, gains, update, rollout_s, update_s)
            if checkpoint_s and number == 0:
                metrics["time/checkpoint"] = checkpoint_s
            if held_out and cfg.eval_every and policy.updates % cfg.eval_every == 0:
                metrics |= held_out()
            record(run, cfg, policy.updates, groups, gains, metrics, progress)
        checkpoint_s = save_if_due(run, cfg, policy, progress, updates)


def resume(run: Run, policy: Policy) -> Progress:
    """Restore policy and progress from the newest checkpoint, where there is one."""
    latest = run.latest()
    if latest is None:
        return Progress()
    policy.load(latest[1])
    return Progress(**json.loads((latest[1] / "grpo.json").read_text()))


def look_ahead(
    run: Run,
    cfg: Grpo,
    engine: NativeEngine,
    tasks: Tasks,
    rubric: Judge,
    held_out: Callable[[], Mapping[str, float]] | None,
) -> None:
    """Before the first update: the preflight, and the held-out accuracy to start from."""
    if cfg.preflight:
        sampling = Sampling(temperature=cfg.temperature, max_tokens=longest(cfg, 0))
        preflight(run, engine, *at(0, tasks, rubric), sampling, group_size=cfg.group_size, completions=cfg.preflight)
    if held_out and cfg.eval_every:
        run.metrics(0, held_out())


def at(update: int, tasks: Tasks, rubric: Judge) -> tuple[Sequence[Task], Rubric]:
    """The tasks and the rubric that count after this many updates."""
    return (
        tasks(update) if callable(tasks) else tasks,
        rubric if isinstance(rubric, Rubric) else rubric(update),
    )


def asking(
    run: Run,
    cfg: Grpo,
    engine: NativeEngine,
    tasks: Sequence[Task],
    rubric: Rubric,
    progress: Progress,
    max_tokens: int,
) -> Callable[[int], list[Group]]:
    """A function that asks the next so many questions and gives their judged groups, in the order of the draw."""
    sampling = Sampling(temperature=cfg.temperature, max_tokens=max_tokens)

    def ask(count: int) -> list[Group]:
        groups: list[Group] = []
        for epoch, drawn in draw(tasks, progress.drawn, count, run.seed):
            finished = rollouts(engine, drawn, sampling, rubric, samples=cfg.group_size, seed=run.seed, step=epoch)
            by_task = {group.task.id: group for group in finished}
            groups += [by_task[task.id] for task in drawn]
        progress.drawn += count
        refuse_ungraded(groups, cfg.max_ungraded)
        return groups

    return ask


def gather(ask: Callable[[int], list[Group]], count: int, budget: int) -> list[Slot]:
    """`count` groups; those with equal rewards are replaced with new ones, at most `budget` of these."""
    slots = [Slot(group) for group in ask(count)]
    while flat := [i for i, slot in enumerate(slots) if not has_spread(slot.group)][:budget]:
        for i, group in zip(flat, ask(len(flat)), strict=True):
            slots[i] = Slot(group, (*slots[i].replaced, slots[i].group))
        budget -= len(flat)
    return slots


def draw(tasks: Sequence[Task], start: int, count: int, seed: int) -> list[tuple[int, list[Task]]]:
    """Questions number `start` to `start + count` of an endless series of shuffled epochs, by epoch.

    Within one epoch no task comes twice, so run seed, epoch, task and sample number make a sample unique.
    """
    if not tasks:
        raise InputError("there are no tasks to learn from", hint="check the stage's task sources and their limits")
    found: list[tuple[int, list[Task]]] = []
    while count:
        epoch, place = divmod(start, len(tasks))
        order = np.random.default_rng((seed, epoch)).permutation(len(tasks))[place : place + count]
        found.append((epoch, [tasks[i] for i in order]))
        start, count = start + len(order), count - len(order)
    return found


def advantages(group: Group, mode: loss.Advantage) -> list[float | None]:
    """The advantage of every attempt inside its group; None for those without a grade."""
    graded = torch.tensor([r for r in group.rewards if r is not None], dtype=torch.float64)
    found = iter(loss.advantages(graded, mode).tolist())
    return [None if reward is None else next(found) for reward in group.rewards]


def learnable(group: Group, mode: loss.Advantage) -> list[Example]:
    """The graded attempts of a group with their advantages; of a group without spread they are all 0."""
    judged = zip(group.rollouts, advantages(group, mode), strict=True)
    return [example(r, a) for r, a in judged if a is not None and r.completion.tokens]


def example(rollout: Rollout, advantage: float) -> Example:
    """An attempt as a sequence to learn from: the prompt is given, the completion is learnt."""
    completion = rollout.completion
    return Example(
        np.array((*rollout.prompt, *completion.tokens), dtype=np.int32),
        learn_from=len(rollout.prompt),
        advantage=advantage,
        old=completion.logprobs,
        sampler=completion.logprobs,
    )


def with_trainer_logprobs(policy: Policy, groups: list[list[Example]], temperature: float) -> list[list[Example]]:
    """The same examples with `old` computed by the trainer."""
    scored = iter(policy.logprobs([e for group in groups for e in group], temperature))
    return [[replace(e, old=next(scored)) for e in group] for group in groups]


def learn(cfg: Grpo, policy: Policy, examples: list[Example], *, fresh: bool) -> Update:
    """One update on these examples; `fresh` says that the policy has not moved since it sampled them."""
    totals = loss.Totals(
        responses=len(examples), tokens=sum(e.learnt for e in examples), max_tokens=longest(cfg, policy.updates)
    )
    if cfg.beta and (policy.reference is None or policy.updates % cfg.reference_every == 0):
        policy.refresh_reference()
    if cfg.skip_no_spread:
        examples = [e for e in examples if e.advantage]
    if cfg.beta:
        scored = policy.logprobs(examples, cfg.temperature, reference=True)
        examples = [replace(e, reference=r) for e, r in zip(examples, scored, strict=True)]
    return policy.update(
        partial(pack, examples, device=policy.device), objective(cfg, policy, totals, fresh), total=cfg.updates
    )


def objective(
    cfg: Grpo, policy: Policy, totals: loss.Totals, fresh: bool
) -> Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]:
    """GRPO's loss of a micro-batch, with the sums behind the policy metrics."""

    def grpo_objective(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        logprobs_C, entropies_C = policy.forward(batch, cfg.temperature)
        old_C, sampler_C = batch.old_C, batch.sampler_C
        assert old_C is not None
        assert sampler_C is not None
        corrected = cfg.old_logprobs == "trainer"
        value, sums = loss.grpo_loss(
            logprobs_C,
            old_C,
            batch.reference_C,
            batch.advantages_C,
            batch.learnt,
            totals,
            clip_low=cfg.clip_low,
            clip_high=cfg.clip_high,
            beta=cfg.beta,
            ratio=cfg.ratio,
            average=cfg.average,
            unbiased_kl=cfg.unbiased_kl,
            off_policy_bound=cfg.off_policy_bound,
            weights_C=loss.truncated_weights(old_C, sampler_C, cfg.correction_cap) if corrected else None,
        )
        sums["entropy"] = entropies_C.sum()
        if fresh:  # later the policy has moved, and the difference would no longer be the sampler's
            sums["mismatch_kl"] = loss.k3(sampler_C, logprobs_C.detach()).sum()
        return value, sums

    return grpo_objective


def report(
    policy: Policy, groups: Sequence[Group], gains: Gains, update: Update, rollout_s: float, update_s: float
) -> dict[str, float]:
    """One row of metrics; `rollout_s` is this update's equal share of its rollout's time."""
    known = [abs(a) for row in gains for a in row if a is not None]
    tokens = sum(len(r.completion.tokens) for g in groups for r in g.rollouts)
    seconds = rollout_s + update_s
    return {
        **group_metrics(groups, policy.tokenizer),
        "advantage/abs_mean": sum(known) / max(1, len(known)),
        **{f"policy/{name}": value for name, value in loss.per_token(update.sums).items()},
        **update.metrics,
        "time/rollout": rollout_s,
        "time/update": update_s,
        "time/step": seconds,
        "perf/tokens_per_s": tokens / seconds,
        "perf/rss": resident_bytes(),
    }


def record(
    run: Run,
    cfg: Grpo,
    step: int,
    groups: Sequence[Group],
    gains: Gains,
    metrics: dict[str, float],
    progress: Progress,
) -> None:
    """Write metrics and samples, show progress, and ring alarms that are new."""
    run.metrics(step, metrics)
    if cfg.keep_rollouts and step % cfg.keep_rollouts == 0:
        run.rollouts(step, groups, gains)
    progress.history = [*progress.history, metrics][-REMEMBERED:]
    found = alarms(progress.history)
    for alarm in found:
        if alarm.kind not in progress.ringing:
            run.alarm(alarm.kind, alarm.message, alarm.setting)
    progress.ringing = [alarm.kind for alarm in found]
    run.progress(step, cfg.updates, **headline(metrics))


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """The numbers of the terminal line, those that matter first; the loss is not among them."""
    names = {
        "reward": "reward/mean",
        "acc": "reward/accuracy/mean",
        "cut": "completion/truncated",
        "len": "completion/length_mean",
        "flat": "group/no_spread",
        "kl": "policy/kl",
        "ent": "policy/entropy",
    }
    return {short: metrics[name] for short, name in names.items() if name in metrics}


def save_if_due(run: Run, cfg: Grpo, policy: Policy, progress: Progress, updates: int) -> float:
    """Checkpoint when one became due in the last rollout, at the end, or before stopping; the seconds it took."""
    step = policy.updates
    due = step // cfg.checkpoint_every > (step - updates) // cfg.checkpoint_every
    if not (due or run.stopping or step == cfg.updates):
        return 0.0
    started = time.perf_counter()

    def save(folder: Path) -> None:
        policy.save(folder)
        (folder / "grpo.json").write_text(json.dumps(asdict(progress)))

    run.checkpoint(step, save)
    if run.stopping and step < cfg.updates:
        run.stop()
    return time.perf_counter() - started


def longest(cfg: Grpo, update: int) -> int:
    """The longest completion that is allowed at this update."""
    return [limit for start, limit in cfg.max_tokens if start <= update][-1]


def parts(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """`items` cut into `count` equal parts."""
    size = len(items) // count
    return [items[i * size : (i + 1) * size] for i in range(count)]
