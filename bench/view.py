"""A run of 10,000 steps and 5 million samples, and how fast its pages open in headless Chromium.

    python -m bench.view --make runs/large          make such a run (a minute, 150 MB)
    python -m bench.view --measure runs/large       open every page → bench/results/view.json

The samples are random words of the usual length. 320,000 questions would take an hour to write, so 6,400 are written
and asked again every 200 steps by linking their files; index, metrics and events are those of the whole run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.recipe import RESULTS, machine
from thinkery.config import Config
from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.build import build
from thinkery.pipeline.files import append_row, read_rows
from thinkery.pipeline.index import INDEX
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step

EPOCH = 200
"""Steps after which the questions begin anew."""
QUESTIONS, SAMPLES, TOKENS = 32, 16, 300
WORDS = [
    "so",
    "then",
    "we",
    "add",
    "the",
    "first",
    "number",
    "to",
    "what",
    "is",
    "left",
    "and",
    "take",
    "seven",
    "away",
    "which",
    "gives",
    "us",
    "more",
    "得",
    "加",
    "减",
]


PATIENCE_S = 120
"""How long a page may take to load and to paint, and the server to stop; a page that has not painted never tells."""

TIMES = """(limit) => new Promise((done, fail) => {
  setTimeout(() => fail(new Error(`nothing was painted within ${limit} s of the load of ${location}`)), 1000 * limit);
  const look = () => {
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    if (!paint) return requestAnimationFrame(look);
    done([paint.startTime, performance.getEntriesByType("navigation")[0].loadEventEnd]);
  };
  look();
})"""
"""Milliseconds to the first paint and to the end of loading."""


class Length(Config):
    """How large the run is."""

    steps: int = 10_000
    """Steps of training, each with 32 questions and 16 samples of each."""


def main() -> None:
    """Make a run, or measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DIR")
    parser.add_argument("--steps", type=int, default=Length().steps)
    parser.add_argument("--measure", type=Path, nargs="+", metavar="DIR", default=[])
    args = parser.parse_args()
    if args.make:
        make(args.make, args.steps)
    if args.measure:
        found = {"machine": machine(), "runs": {path.name: measure(path) for path in args.measure}}
        (RESULTS / "view.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))


def make(folder: Path, steps: int) -> None:
    """Write the run."""
    first = step("base", base)
    asked = step("problems", problems)
    learnt = step("zero", train, Length(steps=steps), base=first, tasks=asked)
    exams = [step(f"eval-{one.name}", examine, model=one) for one in (first, learnt)]
    build({one.name: one for one in (first, asked, learnt, *exams)}, folder, seed=0)


def base(run: Run) -> Model:
    """A model of nothing."""
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}"))


def problems(run: Run) -> Dataset:
    """The questions as a data set."""
    writer = run.dataset()
    for number in range(EPOCH * QUESTIONS):
        writer.count("kept", source="bench")
        writer.add({"id": task(number).id, "prompt": task(number).prompt}, f"{number:06d}")
    return writer.finish()


def train(run: Run, cfg: Length, base: Model, tasks: Dataset) -> Model:
    """The metrics and the attempts of every step."""
    draw = random.Random(0)
    for number in range(1, cfg.steps + 1):
        if number <= EPOCH:
            run.rollouts(number, [group(draw, (number - 1) * QUESTIONS + place) for place in range(QUESTIONS)])
        run.metrics(number, metrics(draw, number / cfg.steps))
        if number % 500 == 0:
            run.event("checkpoint", at_step=number)
    repeat(run.dir, cfg.steps)
    run.progress(cfg.steps, cfg.steps)
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}"))


def repeat(folder: Path, steps: int) -> None:
    """Ask the questions of the first epoch again, up to the last step."""
    lines = list(read_rows(folder / INDEX))
    for number in range(EPOCH + 1, steps + 1):
        source = (number - 1) % EPOCH
        os.link(folder / f"rollouts/{source + 1:06d}.jsonl.gz", folder / f"rollouts/{number:06d}.jsonl.gz")
        append_row(folder / INDEX, lines[source] | {"number": number})


def examine(run: Run, model: Model) -> Report:
    """An exam of 640 questions."""
    draw = random.Random(model.name)
    for first in range(0, 640, 64):
        run.rollouts(first, [group(draw, first + place, samples=4) for place in range(64)])
    share = {"value": 0.5, "low": 0.46, "high": 0.54, "n": 640}
    return run.save_report({"stage": run.step.removeprefix("eval-"), "metrics": {"pass@1": share}})


def task(number: int) -> Task:
    """A question by its number."""
    return Task(
        f"bench/{number:06d}",
        f"Question {number}: what is {number} + {number}?",
        "math",
        str(2 * number),
        "en",
        "bench",
    )


def group(draw: random.Random, number: int, samples: int = SAMPLES) -> Group:
    """Judged attempts at a question, at random."""
    asked = task(number)
    return Group(asked, tuple(attempt(draw, asked, sample) for sample in range(samples)))


def attempt(draw: random.Random, asked: Task, sample: int) -> Rollout:
    """One judged attempt."""
    right = draw.random() < 0.5
    answer = f"<answer>{asked.gold if right else sample}</answer>"
    thought = " ".join(draw.choices(WORDS, k=TOKENS))
    said = Completion(
        f"<think>{thought}</think>{answer}", tokens=(0,) * TOKENS, thought=thought, answer=answer, closed=True
    )
    scores = {
        "accuracy": Score(float(right), "as it should be" if right else "not the same"),
        "format": Score(1.0, "tags"),
    }
    return Rollout(asked, (), said, scores, right + 0.1, sample)


def metrics(draw: random.Random, done: float) -> dict[str, float]:
    """A row of metrics of a run that learns."""
    names = (
        "reward/mean",
        "reward/accuracy/mean",
        "reward/format/mean",
        "completion/truncated",
        "completion/length_mean",
    )
    names += (
        "thought/length_mean",
        "answer/length_mean",
        "policy/entropy",
        "policy/kl",
        "policy/clip_low",
        "policy/clip_high",
    )
    names += (
        "group/no_spread",
        "group/no_spread_right",
        "group/no_spread_wrong",
        "time/step",
        "time/rollout",
        "time/update",
    )
    names += (
        "optim/loss",
        "optim/grad_norm",
        "optim/lr",
        "text/language",
        "text/repetition",
        "perf/tokens_per_s",
        "perf/rss",
    )
    return {name: done + 0.1 * draw.random() for name in names}


def measure(folder: Path, repeats: int = 4) -> dict[str, dict[str, float]]:
    """Milliseconds by page: first paint and whole load, the fastest of some; the very first load; the server's work."""
    from playwright.sync_api import sync_playwright

    with served(folder) as (address, server), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(1000 * PATIENCE_S)
        found = {name: timed(page, server, address + path, repeats) for name, path in addresses(folder).items()}
        browser.close()
    return found


def addresses(folder: Path) -> dict[str, str]:
    """A page of every kind, at places in the middle of the run."""
    numbers = sorted(int(path.name[:6]) for path in next(folder.glob("steps/zero-*")).glob("rollouts/*.gz"))
    middle = numbers[len(numbers) // 2]
    first = next(read_rows(next(folder.glob("steps/zero-*")) / f"rollouts/{middle:06d}.jsonl.gz"))
    at = f"/{folder.name}"
    return {
        "pipeline": f"{at}/",
        "stage": f"{at}/stage/zero/",
        "rollouts": f"{at}/rollouts/zero/{middle}/",
        "question": f"{at}/rollouts/zero/{middle}/3/",
        "only": f"{at}/rollouts/zero/{middle}/only/wrong-but-formatted/",
        "history": f"{at}/question/{first['task'].replace('/', '%2F')}/",
        "compare": f"{at}/compare/",
        "change": f"{at}/compare/base/zero/",
        "data": f"{at}/data/",
        "serving": f"{at}/serving/",
    }


def timed(page, server: int, address: str, repeats: int) -> dict[str, float]:
    """The first load, and the fastest of those after it: what else the machine does only adds to a load."""
    loads, worked = [], []
    for _ in range(repeats + 1):
        worked.append(processor_s(server))
        page.goto(address, wait_until="load")
        loads.append(page.evaluate(TIMES, PATIENCE_S))
    paints, ends = zip(*loads[1:], strict=True)
    return {
        "first_paint_ms": round(min(paints)),
        "load_ms": round(min(ends)),
        "first_load_ms": round(loads[0][1]),
        "server_work_ms": round(1000 * (processor_s(server) - worked[1]) / repeats),
    }


def processor_s(process: int) -> float:
    """Processor seconds of a process so far, which other work on the machine does not lengthen."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """The address of `thinkery view` in a process of its own, and that process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "thinkery.cli", "view", str(folder), "--port", str(port)]
    with subprocess.Popen(command) as process:
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            stop(process)


def stop(process: subprocess.Popen) -> None:
    """End a process, by force where it does not listen."""
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_for(port: int, limit_s: float = 60) -> None:
    """Until something answers on a port."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing answers on port {port}")


if __name__ == "__main__":
    main()
