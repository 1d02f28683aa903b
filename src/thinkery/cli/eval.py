"""`thinkery eval MODEL --suite math500`: how often a model is right, with 95 % intervals over the questions.

A suite is a public benchmark asked by the paper's protocol; a source (`--source gsm8k -k 4`) is any tasks, asked as
the options say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, terminal
from thinkery.core import Group, Task
from thinkery.errors import UsageError

if TYPE_CHECKING:
    from thinkery.evals.benchmark import Benchmark
    from thinkery.evals.suites import Suite
    from thinkery.rewards.rubric import Rubric


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the tasks and how often each is asked."""
    parser.add_argument("model", metavar="MODEL", help=models.NAMES)
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME[:SPLIT]",
        help="world, gsm8k, math500, … or a .jsonl file; several are measured one after the other",
    )
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help="a public benchmark by the paper's protocol: aime2024, math500, gsm8k, mmlu, gpqa, ifeval, …",
    )
    parser.add_argument("--file", type=Path, help="your copy of a suite's questions, where it is not public (gpqa)")
    parser.add_argument("--limit", type=int, help="questions of each (default: 400 of a source, all of a suite)")
    parser.add_argument("-k", "--samples", type=int, help="attempts at each (default: 4, or what the suite is asked)")
    parser.add_argument(
        "--reward", default="", metavar="FILE.py:NAME", help="score sources with a reward of one's own too"
    )
    parser.add_argument("--out", type=Path, help="write every attempt to this .jsonl file")
    parser.add_argument("--json", action="store_true", help="machine output on stdout")
    models.arguments(parser)
    parser.set_defaults(max_tokens=None)  # 512 for sources, the protocol's for suites


def main(args: argparse.Namespace) -> None:
    """Measure every suite and source and print a table, or JSON."""
    benchmarks = chosen(args)
    attempts: list[Group] = []
    with models.open_model(args.model, args.template) as engine:
        from thinkery.evals.benchmark import evaluate

        results = {}
        for name, benchmark in benchmarks.items():
            seen = follow(name, len(benchmark.tasks), attempts)
            results[name] = evaluate(engine, benchmark, seed=args.seed, on_group=seen)
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


def chosen(args: argparse.Namespace) -> dict[str, Benchmark]:
    """The benchmarks that the arguments ask for, their questions loaded."""
    from thinkery.evals.benchmark import Benchmark
    from thinkery.evals.suites import PROTOCOL

    if not args.suite and not args.source:
        raise UsageError("nothing to measure on", hint="--suite math500, or --source with tasks of your own")
    longest = args.max_tokens or PROTOCOL.max_tokens
    sampling, brief = (replace(models.sampling(args), max_tokens=n) for n in (longest, args.max_tokens or 512))
    benchmarks = {
        name: find_suite(name).benchmark(
            name, seed=args.seed, file=args.file, limit=args.limit, samples=args.samples, sampling=sampling
        )
        for name in args.suite
    }
    if args.source:
        rubric = make_rubric(args.reward)
        for name in args.source:
            tasks = exam_tasks(name, args.limit or 400, args.seed)
            benchmarks[name] = Benchmark(name, tasks, rubric, brief, args.samples or 4)
    return benchmarks


def find_suite(name: str) -> Suite:
    """The suite of a name; UsageError lists what there is."""
    from thinkery.evals.suites import SUITES

    if name not in SUITES:
        raise UsageError("no such suite", where="--suite", found=name, hint=f"one of {', '.join(SUITES)}")
    return SUITES[name]


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
