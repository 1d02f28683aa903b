"""The corpus at the paper's size: 800,000 samples through the code that curates, killed once, in how much memory.

    env OMP_NUM_THREADS=1 python -m bench.curation      →  bench/results/curation.json
    env OMP_NUM_THREADS=1 python -m bench.curation --samples 80000 --format parquet --on local      →  a row beside it

A teacher that makes up text answers in place of a model: `--words` words of thought and answer on average, one in eight
wrong, one in sixteen in two languages, one in sixteen a repeat of the sample before. Three quarters are eight samples
each of reasoning prompts, one quarter general conversations, as in v1 §2.3.3. All else is what a run does: seeds,
judging by rule, the filters, duplicates within a prompt, contamination with an exam of 500 questions, the record of
every attempt, the journal, the sorted shards (`--format`). `--on` names a Ray cluster whose workers judge, "local" one
of this machine. The process is killed by SIGKILL when half of the prompts are asked, and started again; what it leaves
must be all there, once. `rows_sha256` is a hash of all rows in order, the same however they were judged and written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from bench.recipe import RESULTS, machine
from thinkery.core import Completion, Sampling, Task
from thinkery.data.decontaminate import Index
from thinkery.engine import EngineConfig
from thinkery.engine.base import Event, Request
from thinkery.pipeline.artifact import Dataset, task_to_row
from thinkery.pipeline.files import read_json, row_bytes, write_json
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.stages.common import spreading
from thinkery.stages.curate import Curate, keep_general, keep_reasoning, right_and_readable

SAMPLES = 8
"""Attempts at each reasoning prompt."""
LIMIT_GB = 1.5
"""The memory that was promised."""
WORDS = [line.split() for line in (
    "first add the two numbers that stand inside the brackets",
    "then multiply what comes out by the number that is left over",
    "wait I should check whether the sign of this term is right",
    "so the sum of both sides has to be the same as before",
    "it follows that the remaining part can be written in another way",
    "now compare this with the condition that was given at the beginning",
    "the last step is to divide and to see whether anything remains",
    "let me go through the whole calculation once more from the start",
)]  # fmt: skip
CHINESE = "我们先把两个数相加然后再检查一次结果是不是正确"


def main() -> None:
    """Curate, kill, curate again, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=800_000)
    parser.add_argument("--words", type=int, default=120, help="mean length of a sample")
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="of the shards")
    parser.add_argument("--on", default="", help="the Ray cluster that judges, as in `thinkery run --on`")
    parser.add_argument("--dir", type=Path, help="where to work, emptied first (default: a temporary folder)")
    parser.add_argument("--attempt", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.attempt:
        attempt(args.attempt, args)
        return
    folder = args.dir or Path(tempfile.mkdtemp(prefix="thinkery-curation-"))
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    inputs(folder, args.samples)
    made_s = time.monotonic() - began
    print(f"inputs in {made_s:.0f} s", flush=True)
    killed = watched(folder, args, kill_at=0.5)
    ended = watched(folder, args, kill_at=None)
    found = checked(folder, args.samples)
    peak_gb = max(killed["peak_gb"], ended["peak_gb"])
    rate = args.samples / (killed["seconds"] + ended["seconds"])
    keep({
        "date": date.today().isoformat(), "machine": machine(), "wall_s": round(time.monotonic() - began, 1),
        "samples": args.samples, "words": args.words, "format": args.format, "on": args.on,
        "samples_per_s": round(rate, 1), "peak_memory_gb": peak_gb, "promised_gb": LIMIT_GB,
        "attempts": [killed, ended], **found,
    })  # fmt: skip
    if not args.dir:
        shutil.rmtree(folder)
    if peak_gb > LIMIT_GB:
        sys.exit(f"{peak_gb} GB of memory, over {LIMIT_GB}")


def keep(row: dict[str, Any]) -> None:
    """Write a row in the place of an earlier one of the same settings."""
    settings = ("samples", "words", "format", "on")
    path = RESULTS / "curation.json"
    rows = [read_json(path)] if path.exists() else []
    rows = rows[0]["rows"] if rows and "rows" in rows[0] else rows
    rows = [one for one in rows if [one.get(name) for name in settings] != [row[name] for name in settings]]
    write_json(path, {"rows": [*rows, row]})


def inputs(folder: Path, samples: int) -> None:
    """The two datasets that the corpus is made from: reasoning prompts, and general ones with thoughts and answers."""
    general = samples // 4
    prompts = (samples - general) // SAMPLES
    questions = (
        Task(f"q{n}", question(n), kind="math", gold=str(n % 997), language="en", source="made-up")
        for n in range(prompts)
    )
    save(folder / "prompts", questions)
    rng = random.Random(0)
    talk = (
        Task(f"g{n}", f"Tell me about the number {n}.", gold=prose(rng, 60), info={"thought": prose(rng, 60)})
        for n in range(general)
    )
    save(folder / "general", talk)


def save(folder: Path, tasks: Iterator[Task]) -> None:
    """Write tasks as the dataset of a step."""
    writer = Run(folder, folder.name).dataset()
    for number, task in enumerate(tasks):
        writer.add(task_to_row(task), f"{number:08d}")
    write_json(folder / "artifact.json", writer.finish().manifest)


def opened(folder: Path) -> Dataset:
    """A dataset that `save` wrote."""
    return Dataset(folder, read_json(folder / "artifact.json"))


def attempt(folder: Path, args: argparse.Namespace) -> None:
    """What the child does: the stage `curate`, with a teacher that makes its text up."""
    run = Run(folder / "corpus", "corpus", seed=1)
    cfg = Curate(
        samples=SAMPLES, keep=SAMPLES, prompts=10**9, general=10**9, sampling=Sampling(max_tokens=4096),
        shards=args.format, engine=EngineConfig(ray=args.on),
    )  # fmt: skip
    writer, teacher = run.dataset(cfg.shards), Teacher(args.words)
    exam = Index.of(Task(f"e{n}", question(10**7 + n), gold="1") for n in range(500))
    with spreading(cfg.engine) as spread:
        rubric = spread(right_and_readable(cfg, accuracy))
        keep_reasoning(run, cfg, writer, opened(folder / "prompts"), teacher, rubric, exam)
    keep_general(cfg, writer, opened(folder / "general"))
    write_json(run.dir / "artifact.json", writer.finish().manifest)


class Teacher:
    """An engine that makes text up, a sample being a function of its seed alone."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.queue: list[tuple[str, Request]] = []
        self.asked = 0

    def submit(self, request: Request) -> str:
        """Queue a request."""
        self.asked += 1
        self.queue.append((str(self.asked), request))
        return str(self.asked)

    def step(self) -> list[Event]:
        """All samples of the next request."""
        id, request = self.queue.pop(0)
        gold = int(request.messages[-1].content.split()[1]) % 997
        said = [self.sample(seed, gold) for seed in request.seeds]
        for n in range(1, len(said)):
            if request.seeds[n] % 16 == 0:
                said[n] = said[n - 1]
        return [Event(id, n, completion=one) for n, one in enumerate(said)]

    def sample(self, seed: int, gold: int) -> Completion:
        """A thought and an answer, which may be wrong or in two languages."""
        rng = random.Random(seed)
        thought = prose(rng, self.words)
        if seed % 16 == 1:
            thought = f"{thought}\n\n{CHINESE * 3}"
        answer = f"The answer is \\boxed{{{gold + (seed % 8 == 2)}}}."
        return Completion(f"<think>{thought}</think>{answer}", thought=thought, answer=answer, closed=True)

    def cancel(self, id: str) -> None:
        """Drop a request."""
        self.queue = [one for one in self.queue if one[0] != id]

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Nothing: there are no weights."""

    def release(self) -> None:
        """Nothing is held."""


def question(n: int) -> str:
    """A prompt that shares no ten words in a row with another."""
    return f"Question {n} : what is left of {n} when it is divided by 997 , if {n} is the page and {n} the line ?"


def prose(rng: random.Random, words: int) -> str:
    """Sentences of made-up reasoning with numbers in between, so that no two are alike; half to one and a half times
    as many words as asked."""
    sentences = []
    for _ in range(rng.randint(words // 2, words * 3 // 2) // 12):
        said, number = rng.choice(WORDS), rng.randrange(10**9)
        sentences.append(f"{' '.join(said[:6])} {number // 10**5} {' '.join(said[6:])} {number % 10**5}. ")
    lines = ["".join(sentences[i : i + 8]) for i in range(0, len(sentences), 8)]
    return "\n\n".join(lines).strip()


def watched(folder: Path, args: argparse.Namespace, *, kill_at: float | None) -> dict[str, Any]:
    """One attempt as a process: how long it took and how much memory; killed when so much of the prompts is asked."""
    command = [sys.executable, "-m", "bench.curation", "--attempt", str(folder), "--words", str(args.words)]
    command += ["--format", args.format, "--on", args.on]
    began = time.monotonic()
    process = subprocess.Popen(command)
    while kill_at is not None and share_done(folder) < kill_at:
        if process.poll() is not None:
            sys.exit(f"the attempt ended by itself with code {process.returncode}")
        time.sleep(0.2)
    if kill_at is not None:
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"the attempt failed with code {process.returncode}")
    found = {
        "seconds": round(time.monotonic() - began, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 3),
        "killed": process.returncode != 0,
    }
    print(found, flush=True)
    return found


def share_done(folder: Path) -> float:
    """How much of the prompts the step says it has done."""
    path = folder / "corpus" / "progress.json"
    try:
        state = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return 0.0
    return state["done"] / state["total"]


def checked(folder: Path, samples: int) -> dict[str, Any]:
    """Every sample is in the funnel once, and every row that was kept is in the shards once."""
    corpus = opened(folder / "corpus")
    corpus.verify()
    funnel = corpus.funnel
    if sum(funnel.values()) != samples:
        sys.exit(f"{sum(funnel.values())} samples in the funnel instead of {samples}: {funnel}")
    kept = sum(count for reason, count in funnel.items() if reason.startswith("kept"))
    digest, rows = hashlib.sha256(), 0
    for row in corpus.rows():
        rows += bool(row["messages"])
        digest.update(row_bytes(row))
    if not kept == rows == len(corpus):
        sys.exit(f"{rows} rows in the shards, {kept} kept by the funnel, {len(corpus)} in the manifest")
    size = sum(file["size"] for file in corpus.manifest["files"].values())
    shards = {"shards": len(corpus.manifest["files"]), "shards_gb": round(size / 1e9, 3)}
    return {"funnel": funnel, **shards, "rows_sha256": digest.hexdigest()}


if __name__ == "__main__":
    main()
