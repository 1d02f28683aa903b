"""`thinkery eval MODEL --source gsm8k -k 4`: how often a model is right, with 95 % intervals over the questions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, terminal
from thinkery.core import Group, Task

if TYPE_CHECKING:
    from thinkery.rewards.rubric import Rubric


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the tasks and how often each is asked."""
    parser.add_argument("model", metavar="MODEL", help=models.NAMES)
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME[:SPLIT]",
        help="world, gsm8k, math500, … or a .jsonl file; several are measured one after the other",
    )
    parser.add_argument("--limit", type=int, default=400, help="questions of each source (default 400)")
    parser.add_argument("-k", "--samples", type=int, default=4, help="attempts at each question (default 4)")
    parser.add_argument("--reward", default="", metavar="FILE.py:NAME", help="also score with a reward of one's own")
    parser.add_argument("--out", type=Path, help="write every attempt to this .jsonl file")
    parser.add_argument("--json", action="store_true", help="machine output on stdout")
    models.arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Measure every source and print a table, or JSON."""
    exams = {name: exam_tasks(name, args.limit, args.seed) for name in args.source}
    rubric = make_rubric(args.reward)
    attempts: list[Group] = []
    with models.open_model(args.model, args.template) as engine:
        from thinkery.evals.benchmark import Benchmark, evaluate

        results = {}
        for name, tasks in exams.items():
            benchmark = Benchmark(name, tasks, rubric, models.sampling(args), args.samples)
            results[name] = evaluate(engine, benchmark, seed=args.seed, on_group=follow(name, len(tasks), attempts))
    if args.out:
        write_attempts(args.out, attempts)
    if args.json:
        terminal.emit({"model": args.model, "results": results})
    else:
        for name, estimates in results.items():
            rows = [
                (m, f"{e['value']:.3g}", "–" if e["low"] is None else f"{e['low']:.3g} to {e['high']:.3g}", e["n"])
                for m, e in estimates.items()
            ]
            print(terminal.table(rows, (name, "value", "95 %", "n")))


def exam_tasks(name: str, limit: int, seed: int) -> list[Task]:
    """The tasks that `name[:split]` or a file means; the test split unless another is named."""
    from thinkery.tasks.sources import Source, load_tasks

    if Path(name).is_file():
        source = Source(source="jsonl", path=name, split="test", limit=limit)
    else:
        kind, _, split = name.partition(":")
        source = Source(source=kind, split=split or "test", limit=limit)
    return load_tasks([source], seed=seed, purpose="exam")


def make_rubric(reward: str) -> Rubric:
    """Accuracy, and a reward of one's own where one is named."""
    from thinkery.rewards.accuracy import accuracy
    from thinkery.rewards.custom import load_reward
    from thinkery.rewards.rubric import Rubric

    return Rubric(accuracy=accuracy, **({"own": load_reward(reward)} if reward else {}))


def follow(name: str, count: int, attempts: list[Group]) -> Callable[[Group], None]:
    """Collects the groups of one source and says how far it is and what share is right so far."""
    from thinkery.pipeline.progress import open_progress

    progress = open_progress()
    progress.stage(name, 1, 1)
    done: list[Group] = []

    def on_group(group: Group) -> None:
        done.append(group)
        attempts.append(group)
        scores = [r.scores["accuracy"].value or 0.0 for g in done for r in g.rollouts]
        progress.update(len(done), count, {"acc": sum(scores) / len(scores)})
        if len(done) == count:
            progress.close()

    return on_group


def write_attempts(path: Path, groups: list[Group]) -> None:
    """Every attempt with its scores, as rows of the record."""
    from thinkery.pipeline.record import rollout_row

    with open(path, "w", encoding="utf-8") as file:
        for group in groups:
            file.writelines(json.dumps(rollout_row(0, r), ensure_ascii=False) + "\n" for r in group.rollouts)
