"""Group Relative Policy Optimization (R1 v2, eq. 1-3): the one loop behind zero, reason and align.

    questions ─► rollouts ─► groups ─► advantages ─► packed minibatches ─► updates ─► the engine's new weights
      pool.py                           baseline.py       batch.py           loss.py

One rollout asks `questions_per_update * minibatches` questions and serves `minibatches` updates. Every update
reports on the groups it learnt from, and every sample is recorded. Checkpoints lie between rollouts: a run that is
asked to stop first spends the rollout it has. A killed run continues bit for bit (on a CPU), because seeds depend
on the run, the epoch, the task and the sample number alone.

With `ahead = 1` the next rollout is sampled while this one is learnt (`train/ahead.py`). What was sampled and not
learnt when a run ends is sampled again, from newer weights, and recorded once.

With `spare` questions beyond those that an update needs, the first to end are learnt and the others go on under the
next weights (`train/flights.py`); they are part of the checkpoint.

With `advantage = "gae"` the same loop is PPO: a critic takes the place of the group (`train/ppo.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from thinkery.config import Config
from thinkery.core import Completion, Group, Sampling, Task
from thinkery.engine.base import LearningEngine
from thinkery.pipeline.progress import headline
from thinkery.pipeline.ranks import Ranks
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import Clock, shared_rollouts
from thinkery.train import loss
from thinkery.train.ahead import schedule_of
from thinkery.train.alarms import WINDOW, alarms, held_out_accuracy
from thinkery.train.baseline import Baseline, GroupBaseline, attempts, gains
from thinkery.train.batch import Batch, Example
from thinkery.train.flights import Flights
from thinkery.train.metrics import group_metrics, has_spread, useful
from thinkery.train.optim import PolicyConfig, Update, resident_bytes
from thinkery.train.policy import Policy
from thinkery.train.pool import Pool, PoolConfig, measure
from thinkery.train.ppo import Critic, CriticConfig
from thinkery.train.preflight import preflight, refuse_ungraded

T = TypeVar("T")
Tasks = Sequence[Task] | Callable[[int], Sequence[Task]]
Judge = Rubric | Callable[[int], Rubric]
STEP = ("rollout", "grading", "waiting", "delivery", "update")
"""Phases that make up the time of a step."""
MISMATCH = 1e-3
"""Nats a token between sampler and trainer beyond which the sampler's probabilities are not taken as they are."""
REMEMBERED = 400
"""Updates of history that the alarms look at."""
SILENCE = 5 * WINDOW
"""Updates for which an alarm must have been silent to be told again."""
EXAMS = 200
"""Earlier ones beside them that have a held-out accuracy."""


class Grpo(Config):
    """Settings of GRPO; the defaults are R1's first stage where it is published."""

    policy: PolicyConfig = PolicyConfig()
    """How the weights learn."""
    updates: int = Field(default=10_400, ge=1)
    """Updates in all (R1-Zero: 10,400)."""
    flops: float | None = Field(default=None, gt=0, json_schema_extra={"key": "when set"})
    """FLOPs of sampling and learning after which training ends, with the rollout that passes them, before `updates`
    are done; None: no such end."""
    group_size: int = Field(default=16, ge=1)
    """Attempts at one question, G."""
    questions_per_update: int = Field(default=32, ge=1)
    """Groups that one update learns from (32 x 16 = 512 attempts)."""
    minibatches: int = Field(default=16, ge=1)
    """Updates that one rollout serves; samples are up to `minibatches - 1` updates stale."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; the trainer's probabilities use the same."""
    max_tokens: tuple[tuple[int, int], ...] = ((0, 32_768), (8_200, 65_536))
    """(from this update on, longest completion in tokens), in rising order."""
    clip_low: float = 0.2
    """How far below 1 a ratio may fall before it stops earning (ε in eq. 1; R1-Zero's is not published)."""
    clip_high: float = 0.2
    """How far above 1 a ratio may rise before it stops earning; R1's first RL stage used ε = 10."""
    beta: float = 0.001
    """Weight of the KL against the reference, in the loss (GRPO) or in the reward (PPO); 0 keeps no reference."""
    reference_every: int = 400
    """Updates after which the reference becomes the policy."""
    advantage: Literal[loss.Advantage, "gae"] = "group_std"
    """How rewards become advantages: compared inside their group and divided by its standard deviation (GRPO), not
    divided ("group_mean", Dr.GRPO), compared with the mean of the others ("rloo"), or, for each token, with a critic's
    values ("gae", PPO)."""
    critic: CriticConfig = CriticConfig()
    """PPO's critic, with `advantage = "gae"` only."""
    pool: PoolConfig = PoolConfig()
    """Which tasks are asked, and how often."""
    ratio: loss.Ratio = "token"
    """What the ratio is of: a token (GRPO), a sequence (GSPO), or a clipped weight (CISPO)."""
    average: loss.Average = "response"
    """How token losses are averaged: per response (GRPO), over all tokens (DAPO), by a constant (Dr.GRPO)."""
    unbiased_kl: bool = False
    """Weight the KL term with the ratio (V3.2)."""
    off_policy_bound: float | None = None
    """Mean log(old / now) beyond which a response with negative advantage is left out (V3.2)."""
    old_logprobs: Literal["auto", "sampler", "trainer"] = "auto"
    """Whose probabilities the ratio is taken against: the sampler's own, or those that the trainer computes again, for
    engines whose arithmetic differs. "auto" computes them again from the moment on that the two are measured further
    apart than 0.001 nats a token (`policy/mismatch_kl`), and while they are. With `minibatches = 1` that costs nothing:
    they are what the update computes anyway."""
    correction_cap: float = 2.0
    """Upper bound of the importance weight trainer / sampler, used where the trainer's probabilities are."""
    ahead: int = Field(default=0, ge=0, json_schema_extra={"key": "when set"})
    """Rollouts that are sampled while earlier ones are learnt, by engines in other processes (`engine.processes`) or
    servers of vLLM; at 0 sampling and learning take turns. Samples are then `ahead` rollouts older, which a stage
    corrects for by `old_logprobs = "trainer"` unless that is set."""
    spare: int = Field(default=0, ge=0, json_schema_extra={"key": "when set"})
    """Questions in flight beyond those that a rollout needs: the first to end are learnt, and the others are carried
    over and go on from the next weights, so that the longest samples do not hold a step. Their tokens come from several
    versions, which a stage corrects for by `old_logprobs = "trainer"` unless that is set."""
    span: int = Field(default=0, ge=0, json_schema_extra={"key": "when set"})
    """Tokens by which samples are continued before those that have ended are counted, with `spare` only; 0: a sixteenth
    of the longest completion."""
    skip_no_spread: bool = False
    """Leave groups with equal rewards out of the forward pass: it is shorter, their KL term is lost, and the entropy
    that is told is that of the other groups, none where there are no others."""
    resample: int = 0
    """Extra questions a rollout may ask to replace groups with equal rewards (DAPO's dynamic sampling)."""
    max_ungraded: float = 0.2
    """Share of attempts without a grade above which the run ends."""
    preflight: int = Field(default=64, ge=0, json_schema_extra={"key": False})
    """Completions sampled before the first update to see whether RL can learn; 0 leaves this out."""
    keep_rollouts: int = Field(default=1, json_schema_extra={"key": False})
    """Updates between two records of all samples; 0 keeps none."""
    checkpoint_every: int = Field(default=100, ge=1, json_schema_extra={"key": False})
    """Updates between two checkpoints, moved to the end of their rollout."""
    eval_every: int = Field(default=0, json_schema_extra={"key": False})
    """Updates between two held-out measurements; 0 measures none."""

    @model_validator(mode="after")
    def _limits_begin_and_rise(self) -> Grpo:
        begins = [begin for begin, _ in self.max_tokens]
        if begins[:1] != [0] or begins != sorted(set(begins)) or any(most < 1 for _, most in self.max_tokens):
            raise ValueError("max_tokens are [[0, TOKENS], [UPDATE, TOKENS], …] with rising updates, from update 0 on")
        return self

    @model_validator(mode="after")
    def _span_needs_spare(self) -> Grpo:
        if self.span and not self.spare:
            raise ValueError("span has no effect without spare: set spare, the questions in flight beyond those needed")
        return self


@dataclass(slots=True)
class Progress:
    """What the loop itself must remember: its tasks, and recent metrics for the alarms."""

    pool: Pool = field(default_factory=Pool)
    history: list[dict[str, float]] = field(default_factory=list)
    ringing: list[str] = field(default_factory=list)
    """Kinds of alarms that ring now."""
    rung: dict[str, int] = field(default_factory=dict)
    """By kind, the last update at which an alarm rang."""
    flops: float = 0.0
    """Spent on sampling and learning so far."""
    flights: Flights = field(default_factory=Flights)
    """Questions that are carried over."""

    def done(self, cfg: Grpo, updates: int) -> bool:
        """Whether training ends after so many updates."""
        return updates >= cfg.updates or (cfg.flops is not None and self.flops >= cfg.flops)


@dataclass(frozen=True, slots=True)
class Slot:
    """One question's place in an update: the group learnt from, the groups it replaced, and what is learnt."""

    group: Group
    replaced: tuple[Group, ...] = ()
    learnt: Sequence[Example] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """Everything that was sampled for this place."""
        return (*self.replaced, self.group)

    @property
    def gains(self) -> list[list[float | None]]:
        """The advantage of each attempt in `groups`, None for those that nothing is learnt from."""
        return [*(gains(group, ()) for group in self.replaced), gains(self.group, self.learnt)]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One rollout: what was sampled, for how many updates, from which tasks, and the pool and what is carried over as
    they were afterwards."""

    slots: Sequence[Slot]
    updates: int
    questions: Sequence[Task]
    pool: Pool
    flights: Flights


def grpo(
    run: Run,
    cfg: Grpo,
    policy: Policy,
    engine: LearningEngine,
    tasks: Tasks,
    rubric: Judge,
    *,
    held_out: Callable[[], Mapping[str, float]] | None = None,
    baseline: Baseline | None = None,
) -> None:
    """Train the policy, from which `engine` samples, on rewards; continues from the run's newest checkpoint.

    `tasks` and `rubric` may be functions of the number of updates done, so that both can change on the way
    (R1's last stage brings preference rewards in for its last 400 updates). `held_out` measures accuracy on
    tasks that are not trained on; its metrics are named `eval/<benchmark>/<metric>`. `baseline` gives advantages in
    place of what `cfg.advantage` names.
    Raises Ungradable when too many attempts have no grade, NotFinite when updates keep failing.
    """
    baseline, clock = baseline or open_baseline(cfg, policy), Clock()
    with schedule_of(run, cfg.ahead, policy, engine, clock) as schedule:
        progress = resume(run, policy, baseline)
        schedule.moved()
        if progress is None:
            progress = schedule.ask(lambda _: look_ahead(run, cfg, engine, tasks, rubric, held_out))
            if progress.pool.start:
                save(run, policy, baseline, progress)
        for rollout, beside in schedule.rollouts(
            sampled(run, schedule.ranks, cfg, engine, tasks, rubric, policy.updates, progress)
        ):
            progress.pool, progress.flights = rollout.pool, rollout.flights
            now = settled(cfg, progress.history)
            with clock("update"):
                slots = compare(now, policy, baseline, rollout.slots)
            shared, beside = share_of(clock.lap(), rollout.updates), share_of(beside, rollout.updates)
            for number, share in enumerate(parts(slots, rollout.updates)):
                examples = [example for slot in share for example in slot.learnt]
                age = staleness(policy, share)
                with clock("update"):
                    schedule.learning()
                    update = learn(now, policy, examples, fresh=number == 0 and not (cfg.ahead or cfg.spare))
                    judged = baseline.learn(examples, total=cfg.updates)
                    schedule.moved()
                metrics = report(policy, share, update, added(shared, clock.lap()), beside)
                metrics |= {**judged, **age, **progress.pool.metrics(cfg.pool, rollout.questions)}
                metrics |= rollout.flights.metrics() if cfg.spare else {}
                if held_out and cfg.eval_every and policy.updates % cfg.eval_every == 0:
                    metrics |= schedule.ask(lambda _: held_out())
                record(run, cfg, baseline, policy.updates, share, metrics, progress)
            done = progress.done(cfg, policy.updates)
            if done or checkpoint_due(run, cfg, policy.updates, rollout.updates):
                with clock("checkpoint"):
                    save(run, policy, baseline, progress)
                if run.stopping and not done:
                    run.stop()
            if done:  # also where rollouts were sampled ahead
                break


def sampled(
    run: Run,
    ranks: Ranks,
    cfg: Grpo,
    engine: LearningEngine,
    tasks: Tasks,
    rubric: Judge,
    first: int,
    progress: Progress,
) -> Iterator[Callable[[Clock], Sampled]]:
    """How each rollout from update `first` on is sampled, until training is done; the tasks are drawn from a pool of
    their own."""
    pool, flights = progress.pool.copy(), progress.flights.copy()

    def sample(start: int, clock: Clock) -> Sampled:
        updates = min(cfg.minibatches, cfg.updates - start)
        questions, judge = at(start, tasks, rubric)
        sampling = sampling_at(cfg, start)
        if cfg.spare:
            later = cfg.questions_per_update * (cfg.updates - start - updates)
            ask = carrying(run, ranks, cfg, engine, questions, judge, sampling, pool, clock, flights, later)
        else:
            ask = asking(run, ranks, cfg, engine, questions, judge, sampling, pool, clock)
        slots = gather(watched(ask, cfg, pool), cfg.questions_per_update * updates, cfg.resample)
        return Sampled(slots, updates, questions, pool.copy(), flights.copy())

    starts = range(first, cfg.updates, cfg.minibatches)
    return (partial(sample, start) for start in takewhile(lambda start: not progress.done(cfg, start), starts))


def open_baseline(cfg: Grpo, policy: Policy) -> Baseline:
    """What rewards are compared with."""
    if cfg.advantage == "gae":
        return Critic(policy, cfg.critic, beta=cfg.beta, temperature=cfg.temperature)
    return GroupBaseline(cfg.advantage)


def resume(run: Run, policy: Policy, baseline: Baseline) -> Progress | None:
    """Restore everything from the newest checkpoint; None where there is none."""
    latest = run.latest()
    if latest is None:
        return None
    policy.load(latest[1])
    baseline.load(latest[1])
    saved = json.loads((latest[1] / "grpo.json").read_text())
    flights = Flights.of(saved.pop("flights", ()))
    return Progress(Pool(**saved.pop("pool")), flights=flights, **saved)


def look_ahead(
    run: Run,
    cfg: Grpo,
    engine: LearningEngine,
    tasks: Tasks,
    rubric: Judge,
    held_out: Callable[[], Mapping[str, float]] | None,
) -> Progress:
    """Before the first update: the preflight, the tasks' pass rates, and the held-out accuracy to start from."""
    questions, judge = at(0, tasks, rubric)
    first = sampling_at(cfg, 0)
    if cfg.preflight:
        preflight(run, engine, questions, judge, first, group_size=cfg.group_size, completions=cfg.preflight)
    pool = Pool()
    if cfg.pool.samples:
        pool = measure(run, cfg.pool, engine, questions, judge, first, cfg.max_ungraded)
    if not (held_out and cfg.eval_every):
        return Progress(pool)
    found = held_out()
    run.metrics(0, found)
    return Progress(pool, [{**found, "step": 0.0}])


def at(update: int, tasks: Tasks, rubric: Judge) -> tuple[Sequence[Task], Rubric]:
    """The tasks and the rubric that count after this many updates."""
    return (
        tasks(update) if callable(tasks) else tasks,
        rubric if isinstance(rubric, Rubric) else rubric(update),
    )


def asking(
    run: Run,
    ranks: Ranks,
    cfg: Grpo,
    engine: LearningEngine,
    tasks: Sequence[Task],
    rubric: Rubric,
    sampling: Sampling,
    pool: Pool,
    clock: Clock,
) -> Callable[[int], list[Group]]:
    """A function that asks the next so many questions and gives their judged groups, in the order of the draw."""

    def ask(count: int) -> list[Group]:
        groups: list[Group] = []
        for number, drawn in pool.rounds(cfg.pool, tasks, count, run.seed):
            asked = {"samples": cfg.group_size, "seed": run.seed, "step": number, "clock": clock}
            groups += shared_rollouts(ranks, engine, drawn, sampling, rubric, **asked)
        return groups

    return ask


def carrying(
    run: Run,
    ranks: Ranks,
    cfg: Grpo,
    engine: LearningEngine,
    tasks: Sequence[Task],
    rubric: Rubric,
    sampling: Sampling,
    pool: Pool,
    clock: Clock,
    flights: Flights,
    later: int,
) -> Callable[[int], list[Group]]:
    """The same, with `spare` questions more in flight, though no more than the `later` ones that are needed after this
    rollout: it gives the groups that end first."""
    span = cfg.span or max(1, sampling.max_tokens // 16)
    flights.spans = 0

    def ask(count: int) -> list[Group]:
        missing = max(0, count + min(cfg.spare, later) - len(flights.open))
        for number, drawn in pool.rounds(cfg.pool, tasks, missing, run.seed):
            flights.join(number, drawn, cfg.group_size)
        return flights.land(ranks, engine, sampling, rubric, count=count, span=span, seed=run.seed, clock=clock)

    return ask


def watched(ask: Callable[[int], list[Group]], cfg: Grpo, pool: Pool) -> Callable[[int], list[Group]]:
    """The same groups, of which the pool learns; too many attempts of a rollout without a grade are refused."""
    asked: list[Group] = []

    def asking_and_watching(count: int) -> list[Group]:
        groups = ask(count)
        asked.extend(groups)
        refuse_ungraded(asked, cfg.max_ungraded)
        pool.watch(groups)
        return groups

    return asking_and_watching


def gather(ask: Callable[[int], list[Group]], count: int, budget: int) -> list[Slot]:
    """`count` groups; those with equal rewards are replaced with new ones, at most `budget` of these."""
    slots = [Slot(group) for group in ask(count)]
    while flat := [i for i, slot in enumerate(slots) if not has_spread(slot.group)][:budget]:
        for i, group in zip(flat, ask(len(flat)), strict=True):
            slots[i] = Slot(group, slots[i].groups)
        budget -= len(flat)
    return slots


def settled(cfg: Grpo, history: Sequence[Mapping[str, float]]) -> Grpo:
    """The settings with `old_logprobs` decided by the mismatch that was measured last."""
    if cfg.old_logprobs != "auto":
        return cfg
    seen = [row["policy/mismatch_kl"] for row in history if "policy/mismatch_kl" in row]
    apart = bool(seen) and seen[-1] > MISMATCH
    return cfg.model_copy(update={"old_logprobs": "trainer" if apart else "sampler"})


def compare(cfg: Grpo, policy: Policy, baseline: Baseline, slots: Sequence[Slot]) -> list[Slot]:
    """The slots with what is learnt from them: their graded attempts, with advantages.

    Where one update learns all of them and the ratio is taken against the trainer's log-probabilities, these are what
    the update itself computes, and `old` stays empty.
    """
    renew_reference(cfg, policy)
    groups = [attempts(slot.group) for slot in slots]
    if cfg.old_logprobs == "trainer":
        if cfg.minibatches == 1 and not baseline.reads_old:
            groups = [[replace(e, old=()) for e in group] for group in groups]
        else:
            groups = with_trainer_logprobs(policy, groups, cfg.temperature)
    return [replace(slot, learnt=learnt) for slot, learnt in zip(slots, baseline.compare(groups), strict=True)]


def with_trainer_logprobs(policy: Policy, groups: list[list[Example]], temperature: float) -> list[list[Example]]:
    """The same attempts with `old` computed by the trainer."""
    scored = iter(policy.logprobs([e for group in groups for e in group], temperature))
    return [[replace(e, old=next(scored)) for e in group] for group in groups]


def renew_reference(cfg: Grpo, policy: Policy) -> None:
    """The reference becomes the policy, every `reference_every` updates (R1: 400)."""
    if cfg.beta and (policy.reference is None or policy.updates % cfg.reference_every == 0):
        policy.refresh_reference()


def learn(cfg: Grpo, policy: Policy, examples: list[Example], *, fresh: bool) -> Update:
    """One update on these examples; `fresh` says that the policy has not moved since it sampled them."""
    totals = loss.Totals(
        responses=len(examples), tokens=sum(e.learnt for e in examples), max_tokens=longest(cfg, policy.updates)
    )
    renew_reference(cfg, policy)
    if cfg.skip_no_spread:
        examples = [e for e in examples if np.any(e.advantage)]
    if loss_beta(cfg):
        scored = policy.logprobs(examples, cfg.temperature, reference=True)
        examples = [replace(e, reference=r) for e, r in zip(examples, scored, strict=True)]
    return policy.update(partial(policy.pack, examples), objective(cfg, policy, totals, fresh), total=cfg.updates)


def loss_beta(cfg: Grpo) -> float:
    """β of the loss; PPO has paid for the KL in the reward."""
    return 0.0 if cfg.advantage == "gae" else cfg.beta


def objective(
    cfg: Grpo, policy: Policy, totals: loss.Totals, fresh: bool
) -> Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]:
    """GRPO's loss of a micro-batch, with the sums behind the policy metrics."""

    def grpo_objective(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        logprobs_C, entropies_C = policy.forward(batch, cfg.temperature)
        old_C, sampler_C = logprobs_C.detach() if batch.old_C is None else batch.old_C, batch.sampler_C
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
            beta=loss_beta(cfg),
            ratio=cfg.ratio,
            average=cfg.average,
            unbiased_kl=cfg.unbiased_kl,
            off_policy_bound=cfg.off_policy_bound,
            weights_C=loss.truncated_weights(old_C, sampler_C, cfg.correction_cap) if corrected else None,
            sampler_C=sampler_C,
        )
        sums["entropy"] = entropies_C.sum()
        if corrected:
            weights_C = torch.exp(old_C - sampler_C)
            sums |= {"weight": weights_C.sum(), "weight_squared": weights_C.square().sum()}
        if fresh:  # later the policy has moved, and the difference would no longer be the sampler's
            sums["mismatch_kl"] = loss.k3(sampler_C, logprobs_C.detach()).sum()
        return value, sums

    return grpo_objective


def staleness(policy: Policy, slots: Sequence[Slot]) -> dict[str, float]:
    """How many updates ago the attempts that are about to be learnt were sampled, on average; of one with tokens from
    several versions, the mean over its tokens counts."""
    ages = [policy.version - version_of(r.completion) for slot in slots for r in slot.group.rollouts]
    return {"policy/staleness": float(np.mean(ages))} if ages else {}


def version_of(completion: Completion) -> float:
    """The version that sampled a completion, the mean over its tokens."""
    spans = completion.spans or ((completion.version, 1),)
    return sum(version * tokens for version, tokens in spans) / sum(tokens for _, tokens in spans)


def report(
    policy: Policy, slots: Sequence[Slot], update: Update, seconds: Mapping[str, float], beside: Mapping[str, float]
) -> dict[str, float]:
    """One row of metrics; `seconds` are by phase, those of the rollout this update's equal share, and those `beside`
    went by in another thread."""
    groups = [group for slot in slots for group in slot.groups]
    sizes = [np.abs(example.advantage).mean() for slot in slots for example in slot.learnt]
    tokens = sum(len(r.completion.tokens) for g in groups for r in g.rollouts)
    prompts = sum(len(g.rollouts[0].prompt) for g in groups if g.rollouts)
    step_s = sum(seconds.get(phase, 0.0) for phase in STEP)
    flops = 2.0 * policy.parameters * (tokens + prompts) + policy.learning_flops()
    return {
        **group_metrics(groups, policy.tokenizer),
        **useful([slot.group for slot in slots]),
        "advantage/abs_mean": float(sum(sizes) / max(1, len(sizes))),
        **{f"policy/{name}": value for name, value in policy_metrics(update.sums).items()},
        **update.metrics,
        "time/step": step_s,
        **{f"time/{phase}": value for phase, value in {**seconds, **beside}.items() if phase},
        "perf/tokens_per_s": tokens / step_s,
        "perf/flops": flops,
        "perf/mfu": policy.utilisation(flops, step_s),
        "perf/rss": resident_bytes(),
    }


def policy_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Means per token; of importance weights their effective sample size, as a share of the tokens."""
    means = loss.per_token(sums)
    if "weight" in means:
        means["effective_samples"] = means.pop("weight") ** 2 / means.pop("weight_squared")
    return means


def record(
    run: Run,
    cfg: Grpo,
    baseline: Baseline,
    step: int,
    slots: Sequence[Slot],
    metrics: dict[str, float],
    progress: Progress,
) -> None:
    """Write metrics and samples, show progress, and ring alarms that are new."""
    run.metrics(step, metrics)
    progress.flops += metrics["perf/flops"]
    if cfg.keep_rollouts and step % cfg.keep_rollouts == 0:
        run.rollouts(step, [g for slot in slots for g in slot.groups], [row for slot in slots for row in slot.gains])
    progress.history = remembered([*progress.history, metrics | {"step": float(step)}])
    found = [alarm for alarm in alarms(progress.history) if alarm.kind not in answered(cfg, baseline)]
    for alarm in found:
        if alarm.kind not in progress.rung or step - progress.rung[alarm.kind] > SILENCE:
            run.alarm(alarm.kind, alarm.message, alarm.setting, alarm.advice)
        progress.rung[alarm.kind] = step
    progress.ringing = [alarm.kind for alarm in found]
    run.progress(step, cfg.updates, **headline(metrics))


def remembered(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The first rows, which say where training started, the newest ones, and of those between the newest that have a
    held-out accuracy."""
    first = WINDOW + 1  # what was measured before the first update, and a window
    newest = max(first, len(history) - REMEMBERED + first)
    examined = [row for row in history[first:newest] if held_out_accuracy(row) is not None]
    return history[:first] + examined[-EXAMS:] + history[newest:]


def answered(cfg: Grpo, baseline: Baseline) -> tuple[str, ...]:
    """Kinds of alarms that something takes care of: the trainer's own probabilities make up for a sampler that is not
    too far apart, and a teacher needs no spread of rewards."""
    mismatch = () if cfg.old_logprobs == "sampler" else ("mismatch",)
    return mismatch if baseline.needs_spread else (*mismatch, "no-spread")


def checkpoint_due(run: Run, cfg: Grpo, step: int, updates: int) -> bool:
    """Whether a checkpoint became due in the last rollout of `updates`, or by being asked to stop."""
    return run.stopping or step // cfg.checkpoint_every > (step - updates) // cfg.checkpoint_every


def save(run: Run, policy: Policy, baseline: Baseline, progress: Progress) -> None:
    """Write a checkpoint."""

    def write(folder: Path) -> None:
        policy.save(folder)
        baseline.save(folder)
        if run.rank == 0:
            saved = asdict(replace(progress, flights=Flights())) | {"flights": progress.flights.rows()}
            (folder / "grpo.json").write_text(json.dumps(saved))

    run.checkpoint(policy.updates, write, progress.ringing)


def sampling_at(cfg: Grpo, update: int) -> Sampling:
    """How this update's rollout is sampled."""
    return Sampling(temperature=cfg.temperature, max_tokens=longest(cfg, update))


def longest(cfg: Grpo, update: int) -> int:
    """The longest completion that is allowed at this update."""
    return [limit for start, limit in cfg.max_tokens if start <= update][-1]


def parts(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """`items` cut into `count` equal parts."""
    size = len(items) // count
    return [items[i * size : (i + 1) * size] for i in range(count)]


def share_of(seconds: Mapping[str, float], count: int) -> dict[str, float]:
    """An equal share of the seconds of every phase."""
    return {phase: value / count for phase, value in seconds.items()}


def added(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """The sums of two mappings from names to numbers."""
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {**a, **b}}
