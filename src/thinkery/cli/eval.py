"""`thinkery eval MODEL --suite math500`: how often a model is right, with 95 % intervals over the questions.

A suite is a public benchmark asked by the paper's protocol; a source (`--source gsm8k -k 4`) is any tasks, asked as
the options say. Every attempt is kept as it comes: the same command continues where it was killed, and
`--rescore FOLDER` judges what was kept by the rewards of today. With `--url` an endpoint is evaluated, with `--on` a
Ray cluster samples and judges.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, terminal
from thinkery.cli.answering import Answerer, answerer, endpoint_arguments, read_answerer
from thinkery.core import Group
from thinkery.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from thinkery.evals.asked import Asked
    from thinkery.evals.attempts import Attempts
    from thinkery.evals.benchmark import Benchmark
    from thinkery.evals.evaluation import Evaluation
    from thinkery.evals.metrics import Estimate
    from thinkery.rewards.rubric import Rubric

EVALS = Path("evals")
"""Where evaluations are, unless `--out` says otherwise."""

ENDING = """\
pass@1 is the mean over all attempts, pass@K the unbiased estimate from them, and cons@K whether the most frequent
answer is right; where answers tie for the most votes, it is what a random choice among them would earn.
All but lengths and ratings are shares from 0 to 1, with 95 % intervals over the questions.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Who is asked what, who judges, where it is kept, and what must be reached."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = ENDING
    parser.add_argument("model", nargs="?", default="", metavar="MODEL", help=f"{models.NAMES}; or --url")
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
        help="a public benchmark by the paper's protocol: aime2024, math500, gsm8k, … (docs/evaluation.md lists them)",
    )
    parser.add_argument("--file", default="", help="your copy of a suite's questions (gpqa, livecodebench, …)")
    parser.add_argument(
        "--limit", type=terminal.count, help="questions of each (default: 400 of a source, all of a suite)"
    )
    parser.add_argument(
        "-k", "--samples", type=terminal.count, help="attempts at each (default: 4, or what the suite is asked)"
    )
    parser.add_argument("--pass-at", type=int, action="append", default=[], metavar="K", help="pass@K for a smaller K")
    parser.add_argument(
        "--templates",
        action="append",
        default=[],
        metavar="SET",
        help="put every question in other words too, and say how far accuracy moves: chat-exam, world-zero-exam, …",
    )
    parser.add_argument(
        "--reward", default="", metavar="FILE.py:NAME", help="score sources with a reward of one's own too"
    )
    parser.add_argument(
        "--safety-model",
        default="",
        metavar="MODEL",
        help="a point-wise safety model (RUN:harmless): judges what is safe (safety), and is probed itself (bias)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where everything is kept (default evals/MODEL/NAME-SETTINGS)"
    )
    parser.add_argument(
        "--min", action="append", default=[], metavar="METRIC=VALUE", help="exit with 3 where a metric is less"
    )
    parser.add_argument(
        "--rescore", type=Path, metavar="DIR", help="judge what DIR keeps by the rewards of today; asks no model"
    )
    parser.add_argument(
        "--on", default="", metavar="ADDRESS", help="sample and judge on a Ray cluster: ray://host:port, auto or local"
    )
    parser.add_argument("--json", action="store_true", help="machine output on stdout")
    models.arguments(parser)
    parser.set_defaults(max_tokens=None)  # 512 for sources, the protocol's for suites
    endpoint_arguments(parser.add_argument_group("an endpoint instead of MODEL"))
    judging = parser.add_argument_group("who judges frames, alpaca-eval, arena-hard and safety-judged")
    judging.add_argument("--judge", default="", metavar="MODEL", help="a model, named as MODEL is; or --judge-url")
    endpoint_arguments(judging, "judge-")


def main(args: argparse.Namespace) -> int:
    """Ask, or take what was kept; let it be judged; print the numbers and hold them to the gates."""
    from thinkery.evals.gates import read_gates

    if args.on:
        from thinkery.launch.watched import elsewhere

        if (code := elsewhere(sys.argv[1:])) is not None:
            return code
    plans = kept_plans(args) if args.rescore else new_plans(args)
    gates = read_gates(args.min, {plan.title: plan.benchmark.metrics() for plan in plans})
    with ExitStack() as held:
        evaluations = [held.enter_context(plan.open()) for plan in plans]
        with redirect_stdout(sys.stderr):  # where Ray, with --on, prints what becomes of its machines
            ask_all(plans, evaluations, args.on)
            judge_all(plans, evaluations)
        results = {plan.title: one.results() for plan, one in zip(plans, evaluations, strict=True)}
    for plan, one in zip(plans, evaluations, strict=True):
        terminal.remark("\n".join([f"{plan.title} is kept in {one.folder}", *results[plan.title]["notes"]]))
    metrics = {title: found["metrics"] for title, found in results.items()}
    if args.json:
        folders = {plan.title: one.folder for plan, one in zip(plans, evaluations, strict=True)}
        terminal.emit({"model": args.model or args.model_name, "results": metrics, "folders": folders})
    else:
        print("\n\n".join(f"{title}\n{table(found)}" for title, found in metrics.items()))
    missed = [problem for gate in gates if (problem := gate.missed_by(metrics[gate.benchmark]))]
    if missed:
        raise GateFailed(f"{len(missed)} of {len(gates)} gates are missed", found="; ".join(missed))
    return 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One benchmark that is to be measured: who is asked, who judges, and how its folder is opened."""

    title: str
    benchmark: Benchmark
    seed: int
    who: Answerer | None
    """None where kept answers are judged again."""
    judge: Answerer | None
    open: Callable[[], AbstractContextManager[Evaluation]]


def new_plans(args: argparse.Namespace) -> list[Plan]:
    """What the arguments ask, everything loaded and checked but the models."""
    from thinkery.evals.evaluation import open_evaluation, settings_key

    asks = chosen(args)
    require_different(asks, in_one_folder=args.out is not None)
    who = answerer(args, name=args.model, template=args.template)
    judge = answerer(args, "judge-", name=args.judge)
    if who is None:
        raise UsageError("nobody to ask", hint="name a model, or --url and --model-name")
    identities = who.identity(), judge and judge.identity()
    plans = []
    for asked in asks:
        benchmark = asked.benchmark()
        if benchmark.judged and judge is None:
            hint = "--judge MODEL, or --judge-url and --judge-model-name"
            raise UsageError(f"{asked.name} is judged by another model", hint=hint)
        settings = {
            "who": identities[0],
            "judge": identities[1] if benchmark.judged else None,
            "asked": asked.as_data(benchmark),
        }
        named = EVALS / slug(who.title) / f"{slug(asked.name)}-{settings_key(settings)}"
        folder = args.out / slug(asked.name) if args.out else named
        opened = partial(open_evaluation, folder, benchmark, settings)
        plans.append(Plan(asked.name, benchmark, args.seed, who, judge, opened))
    return plans


def chosen(args: argparse.Namespace) -> list[Asked]:
    """What the arguments ask, suites first."""
    from thinkery.evals.asked import Asked
    from thinkery.evals.suites import PROTOCOL
    from thinkery.stages.common import templates_of

    if not args.suite and not args.source:
        raise UsageError("nothing to measure on", hint="--suite math500, or --source with tasks of your own")
    brief = models.sampling(args)
    sampling = replace(brief, max_tokens=args.max_tokens or PROTOCOL.max_tokens)
    shared = {
        "seed": args.seed,
        "limit": args.limit,
        "samples": args.samples,
        "pass_at": tuple(args.pass_at),
        "templates": tuple(templates_of(args.templates)),
    }
    file = str(Path(args.file).resolve()) if args.file else ""
    safety_model = str(models.find_model(args.safety_model).resolve()) if args.safety_model else ""
    suites = [
        Asked(sampling, suite=name, file=file, safety_model=safety_model, **shared)
        for name in dict.fromkeys(args.suite)
    ]
    return suites + [Asked(brief, source=name, reward=args.reward, **shared) for name in dict.fromkeys(args.source)]


def require_different(asks: Sequence[Asked], in_one_folder: bool) -> None:
    """Raise a UsageError where two benchmarks have one name, or would have one folder of a common one."""
    names = Counter(slug(asked.name) if in_one_folder else asked.name for asked in asks)
    if twice := [name for name, times in names.items() if times > 1]:
        what = "two benchmarks would be kept in one folder" if in_one_folder else "two benchmarks have one name"
        raise UsageError(
            what, found=twice[0], hint="measure them one after the other, with an --out of its own for each"
        )


def kept_plans(args: argparse.Namespace) -> list[Plan]:
    """The evaluations in a folder, to be judged again: by another judge where one is named."""
    from thinkery.evals.asked import read_asked
    from thinkery.evals.evaluation import find_folders, open_rescoring, read_settings

    if args.model or args.url or args.suite or args.source or args.out:
        raise UsageError("--rescore asks nobody anything", hint="--rescore DIR, with --judge where another shall judge")
    judge, plans = answerer(args, "judge-", name=args.judge), []
    folders = find_folders(args.rescore)
    for folder in folders:
        settings = read_settings(folder)
        benchmark = read_asked(settings["asked"]).benchmark()
        kept = settings["judge"] and read_answerer(settings["judge"], args.on)
        title = benchmark.name if len(folders) == 1 else folder.name
        plans.append(Plan(title, benchmark, 0, None, judge or kept, partial(open_rescoring, folder, benchmark)))
    return plans


def ask_all(plans: Sequence[Plan], evaluations: Sequence[Evaluation], on: str) -> None:
    """Ask whoever is asked what is still open, with rules judged on the cluster at an address where there is one;
    nobody is called where nothing is."""
    waiting = [(plan, one) for plan, one in zip(plans, evaluations, strict=True) if plan.who and one.unasked]
    if not waiting or not waiting[0][0].who:
        return
    with judging_on(on) as spread, waiting[0][0].who.open() as engine:
        for plan, one in waiting:
            spread_out = replace(one, benchmark=replace(one.benchmark, rubric=spread(one.benchmark.rubric)))
            with follow(plan.title, one.asked, len(plan.benchmark.tasks)) as on_group:
                spread_out.ask(engine, plan.seed, on_group)


@contextmanager
def judging_on(address: str) -> Iterator[Callable[[Rubric], Rubric]]:
    """What has the rules of a rubric judged by workers of a Ray cluster; without an address, it stays as it is."""
    if not address:
        yield lambda rubric: rubric
        return
    from thinkery.engine import EngineConfig
    from thinkery.stages.common import spreading

    with spreading(EngineConfig(ray=address)) as spread:
        yield spread


def judge_all(plans: Sequence[Plan], evaluations: Sequence[Evaluation]) -> None:
    """Let what is not judged yet be judged, by the rules or by whoever judges it."""
    waiting = [(plan, one) for plan, one in zip(plans, evaluations, strict=True) if one.unjudged]
    for judge, some in groupby(waiting, lambda pair: pair[0].judge if pair[0].benchmark.judged else None):
        with judge.open() if judge else nullcontext() as engine:
            for plan, one in some:
                with follow(f"{plan.title}, judged", one.judged, len(one.asked.done)) as on_group:
                    one.judge(engine, on_group)


@contextmanager
def follow(title: str, attempts: Attempts, total: int) -> Iterator[Callable[[Group], None]]:
    """Says how far a file of attempts is, and what share is right of those that come now."""
    from thinkery.pipeline.progress import open_progress

    right: list[float] = [0.0, 0]

    def on_group(group: Group) -> None:
        scores = [r.scores["accuracy"].value or 0.0 for r in group.rollouts if "accuracy" in r.scores]
        right[0], right[1] = right[0] + sum(scores), right[1] + len(scores)
        progress.update(len(attempts.done), total, {"acc": right[0] / right[1]} if right[1] else {})

    with open_progress() as progress:
        progress.stage(title, 1, 1)
        yield on_group


def table(metrics: Mapping[str, Estimate]) -> str:
    """The numbers as columns of text."""
    rows = [
        (name, f"{e['value']:.3g}", "–" if e["low"] is None else f"{e['low']:.3g} to {e['high']:.3g}", e["n"])
        for name, e in metrics.items()
    ]
    return terminal.table(rows, ("metric", "value", "95 %", "n"))


def slug(name: str) -> str:
    """A name that a folder can have: of a path its last part."""
    last = re.sub(r"\.jsonl?(\.gz)?$", "", Path(name).name)
    return re.sub(r"[^A-Za-z0-9.@]+", "-", last).strip("-.")
