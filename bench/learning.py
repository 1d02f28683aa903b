"""Does our GRPO learn as TRL's does? The same model, tasks, rewards and settings: curves over seeds, and a replay.

    env OMP_NUM_THREADS=1 python -m bench.learning           →  bench/results/learning.json, docs/images/learning.svg
    env OMP_NUM_THREADS=1 python -m bench.learning trl/2     one of the runs; the others in the file stay as they are

The embedded model learns chains of calculations in float32. It begins where our loop has brought the base in START's
updates: before that, a run of so few samples may stay for long at what form alone earns, or not, as its draws have it
(so did ours with other seeds), and three seeds say nothing about such a mixture. Two comparisons, with what each has to
show:

noise    Either side trains with each of the seeds and samples for itself. Compared are the mean reward of the last
         quarter of the updates, that of all updates (the area under the curve), and accuracy on held-out problems at
         the end. A difference is within noise when its 95 % interval (Welch's, from either side's spread over seeds)
         contains 0; how wide the interval is says how large a difference would have been seen.
replay   Our loop learns what TRL sampled in its first updates, from the same model. The weights may then lie apart by
         APART of the way that TRL's have gone. Nothing is drawn here, so no noise hides a difference.

The model that both begin with is kept in the user's cache; the first run makes it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import mpmath
import torch

from bench.peers.__main__ import CACHE
from bench.recipe import RESULTS, machine
from thinkery.core import Group, Rollout, Sampling
from thinkery.engine import EngineConfig, open_engine
from thinkery.evals.benchmark import Benchmark, evaluate
from thinkery.evals.figures import learning_curve, standalone
from thinkery.model.hf import load_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import template_of
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.tasks.sources import Source, load_tasks
from thinkery.train.baseline import GroupBaseline, attempts
from thinkery.train.grpo import Grpo, Slot, compare, learn
from thinkery.train.policy import Policy, PolicyConfig

RESULT = RESULTS / "learning.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "learning.svg"
SIDES, SEEDS = ("ours", "trl"), (1, 2, 3)
RUNS = (*(f"{side}/{seed}" for seed in SEEDS for side in SIDES), "replay")
MEASURES = ("last quarter", "area", "held-out")
REPLAYED = 5
"""Updates of TRL that are replayed."""
APART = 0.01
"""How far the replayed weights may lie apart, as a share of the way that TRL's have gone."""
TEMPLATE = "world-zero"
LOOP = Grpo(
    policy=PolicyConfig(lr=2e-4), updates=20, group_size=8, questions_per_update=16, minibatches=1,
    max_tokens=((0, 112),), beta=0.0, advantage="group_mean", preflight=0, keep_rollouts=0, checkpoint_every=24,
)  # fmt: skip
START = LOOP.model_copy(update={"updates": 28})
RUBRIC = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=0.2))
TASKS = load_tasks([Source(source="world", kind="chain", limit=400)], seed=1)
HELD_OUT = load_tasks([Source(source="world", kind="chain", split="held-out", limit=300)], seed=1, purpose="exam")


def main() -> None:
    """Do the runs that are asked for; after each, compare what is known by then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all by default")
    args = parser.parse_args()
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # TRL's and accelerate's own deprecations
    for name in args.runs or RUNS:
        side, _, seed = name.partition("/")
        keep(name, replay() if side == "replay" else trained(side, int(seed)))


def trained(side: str, seed: int) -> dict[str, Any]:
    """The curve of one run, and what the model that came of it is worth."""
    start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        curve, model = (ours if side == "ours" else trl)(Path(folder), seed)
        seconds = round(time.perf_counter() - began, 1)
        held_out = accuracy_of(model)
    print(f"{side}/{seed}: {seconds} s, held-out {held_out:.3f};", *(f"{reward:.2f}" for reward in curve), flush=True)
    return {"seconds": seconds, "held_out": round(held_out, 4), "rewards": [round(reward, 4) for reward in curve]}


def ours(folder: Path, seed: int) -> tuple[list[float], Path]:
    """Mean rewards by update of our loop, and the model."""
    return reinforced(folder, LOOP, str(start()), seed)


def start() -> Path:
    """The model that both sides begin with."""
    folder = CACHE / f"learning-start-{hashlib.sha256(START.model_dump_json().encode()).hexdigest()[:8]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as aside:
            rewards, model = reinforced(Path(aside), START, "tiny", 1)
            print("start:", *(f"{reward:.2f}" for reward in rewards), flush=True)
            model.rename(folder)
    return folder


def reinforced(folder: Path, loop: Grpo, model: str, seed: int) -> tuple[list[float], Path]:
    """Mean rewards by update of our loop on a model, and the folder of what came of it."""
    run = Run(folder / "run", "zero", seed=seed)
    made = reinforce(run, Reinforce(grpo=loop), fetch(run, Fetch(model=model)), TASKS, RUBRIC, template=TEMPLATE)
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    return [row["reward/mean"] for row in rows], made.folder


def trl(folder: Path, seed: int) -> tuple[list[float], Path]:
    """Mean rewards by update of TRL's, and the model."""
    teller = Teller()
    trainer = trl_trainer(folder, seed, teller, LOOP.updates)
    trainer.train()
    trainer.model.save_pretrained(folder / "model")
    teller.tokenizer.save(folder / "model")
    return [fmean(r.reward or 0.0 for group in groups for r in group.rollouts) for groups in teller.updates], (
        folder / "model"
    )


def trl_trainer(folder: Path, seed: int, teller: Teller, updates: int) -> Any:
    """TRL's GRPOTrainer with the settings of `LOOP`, in the words that TRL has for them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(start())
    for ids, text in zip(teller.prompts, teller.texts, strict=True):
        assert tokenizer(text)["input_ids"] == list(ids), "both sides must be asked with the same tokens"
    batch, policy = LOOP.questions_per_update * LOOP.group_size, LOOP.policy
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(start(), dtype=torch.float32),
        reward_funcs=teller,
        args=GRPOConfig(
            output_dir=str(folder / "trl"), seed=seed, max_steps=updates, use_cpu=True, bf16=False,
            per_device_train_batch_size=batch // 2, gradient_accumulation_steps=2, gradient_checkpointing=False,
            learning_rate=policy.lr, lr_scheduler_type="constant", adam_beta1=policy.betas[0],
            adam_beta2=policy.betas[1], adam_epsilon=policy.eps, weight_decay=policy.weight_decay,
            max_grad_norm=policy.grad_clip, num_generations=LOOP.group_size, temperature=LOOP.temperature, top_k=0,
            max_completion_length=LOOP.max_tokens[0][1], beta=LOOP.beta, epsilon=LOOP.clip_low, loss_type="grpo",
            scale_rewards="none", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": text, "number": i} for i, text in enumerate(teller.texts)]),
        processing_class=tokenizer,
    )  # fmt: skip


@dataclass
class Teller:
    """A reward function for TRL that judges tokens with our own rewards, and remembers every update's groups."""

    tokenizer: Tokenizer = field(default_factory=lambda: Tokenizer.load(start()).with_template(template_of(TEMPLATE)))
    updates: list[list[Group]] = field(default_factory=list)
    __name__ = "reward"  # which TRL asks every function for

    def __post_init__(self) -> None:
        asked = [self.tokenizer.prompt(task.messages) for task in TASKS]
        self.prompts, self.opened = [ids for ids, _ in asked], [opened for _, opened in asked]
        self.texts = [self.tokenizer.backend.decode(list(ids), skip_special_tokens=False) for ids in self.prompts]

    def __call__(self, number: list[int], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward of each completion; TRL samples for one update at a time, question by question."""
        groups = [
            self.group(number[at], completion_ids[at : at + LOOP.group_size])
            for at in range(0, len(number), LOOP.group_size)
        ]
        self.updates.append(groups)
        return [rollout.reward or 0.0 for group in groups for rollout in group.rollouts]

    def group(self, number: int, sampled: Sequence[Sequence[int]]) -> Group:
        """The judged attempts at one question; TRL tells no log-probabilities."""
        said = [
            self.tokenizer.completion(
                ids, [0.0] * len(ids), "stop" if ids[-1] in self.tokenizer.eos_ids else "length",
                opened=self.opened[number],
            )
            for ids in sampled
        ]  # fmt: skip
        task = TASKS[number]
        judged = RUBRIC.judge([(task, completion) for completion in said])
        return Group(task, tuple(
            Rollout(task, self.prompts[number], completion, scores, reward, i)
            for i, (completion, (scores, reward)) in enumerate(zip(said, judged, strict=True))
        ))  # fmt: skip


def accuracy_of(model: Path) -> float:
    """The share of held-out problems that a model solves, by one engine for both sides."""
    network, tokenizer = load_model(model)
    how = Sampling(temperature=0.6, top_p=0.95, max_tokens=LOOP.max_tokens[0][1])
    exam = Benchmark("held-out", HELD_OUT, Rubric(accuracy=accuracy), how, samples=2)
    with open_engine(network, tokenizer.with_template(template_of(TEMPLATE)), EngineConfig()) as engine:
        return evaluate(engine, exam, seed=0)["pass@1"]["value"] or 0.0


def replay() -> dict[str, Any]:
    """Learn TRL's own samples with our loop, and compare the weights update by update."""
    teller = Teller()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(Path(folder), SEEDS[0], teller, REPLAYED)
        theirs = weights_by_update(trainer)
    network, _ = load_model(start())
    policy, told = Policy(network, teller.tokenizer, LOOP.policy), []
    base = copied(network)
    for groups, weights in zip(teller.updates, theirs, strict=True):
        slots = compare(LOOP, policy, GroupBaseline("group_mean"), [Slot(scored(policy, group)) for group in groups])
        learn(LOOP, policy, [example for slot in slots for example in slot.learnt], fresh=True)
        told.append(distance(copied(network), weights) / distance(weights, base))
    print("replay:", *(f"{share:.2e}" for share in told), flush=True)
    return {"apart": [float(f"{share:.3e}") for share in told], "bound": APART, "holds": max(told) <= APART}


def weights_by_update(trainer: Any) -> list[dict[str, torch.Tensor]]:
    """Train, and keep the weights after each update."""
    from transformers import TrainerCallback

    found: list[dict[str, torch.Tensor]] = []

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            found.append(copied(trainer.model))

    trainer.add_callback(Keep())
    trainer.train()
    return found


def scored(policy: Policy, group: Group) -> Group:
    """The group with the policy's own log-probabilities of what was sampled."""
    known = policy.logprobs(attempts(group), LOOP.temperature)
    said = zip(group.rollouts, known, strict=True)
    return replace(group, rollouts=tuple(
        replace(rollout, completion=replace(rollout.completion, logprobs=tuple(logprobs))) for rollout, logprobs in said
    ))  # fmt: skip


def copied(network: Any) -> dict[str, torch.Tensor]:
    """All weights as they are now; shared ones count once."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The length of the difference of all weights."""
    assert one.keys() == other.keys()
    return math.sqrt(sum(float((one[name] - other[name]).double().square().sum()) for name in one))


def keep(name: str, found: Mapping[str, Any]) -> None:
    """Write a run in the place of the one that was there, with all comparisons and the figure anew."""
    old = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    runs = {**old.get("runs", {}), name: found}
    told: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "loop": LOOP.model_dump(mode="json"),
        "start": START.model_dump(mode="json"),
    }
    if set(runs) >= set(RUNS):
        told["compared"] = {measure: compared(runs, measure) for measure in MEASURES}
        FIGURE.write_text(standalone(learning_curve("mean reward by seed", curves(runs))))
        for measure, one in told["compared"].items():
            print(f"{measure}: {one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]")
    RESULTS.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**told, "runs": {run: runs[run] for run in RUNS if run in runs}}, indent=1) + "\n")


def compared(runs: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, Any]:
    """Either side's values over seeds, and the difference of their means with its 95 % interval."""
    mine, theirs = ([value(runs[f"{side}/{seed}"], measure) for seed in SEEDS] for side in SIDES)
    return {"ours": mine, "trl": theirs, **difference(mine, theirs)}


def difference(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Of two means, with its 95 % interval from either side's spread (Welch)."""
    apart, reach = fmean(mine) - fmean(theirs), welch(mine, theirs)
    found = {"difference": apart, "low": apart - reach, "high": apart + reach}
    return {**{name: round(number, 4) for name, number in found.items()}, "within noise": abs(apart) <= reach}


def value(run: Mapping[str, Any], measure: str) -> float:
    """One number of a run."""
    if measure == "held-out":
        return run["held_out"]
    rewards = run["rewards"]
    return round(fmean(rewards if measure == "area" else rewards[-(len(rewards) // 4) :]), 4)


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Half of the 95 % interval of the difference of two means, the spread of either side being its own."""
    parts = [variance(values) / len(values) for values in (one, other)]
    if not sum(parts):
        return 0.0
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (one, other), strict=True))
    return student(freedom) * math.sqrt(sum(parts))


def student(freedom: float) -> float:
    """The number of standard errors that Student's t exceeds, in either direction, once in twenty times."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        beyond = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + middle**2), regularized=True)
        low, high = (middle, high) if beyond > 0.05 else (low, middle)
    return high


def curves(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Every run's rewards, each the mean of three updates."""
    found = {}
    for name in RUNS[:-1]:
        rewards = runs[name]["rewards"]
        found[name] = [(float(at + 2), fmean(rewards[at : at + 3])) for at in range(len(rewards) - 2)]
    return found


if __name__ == "__main__":
    main()
