"""A small run made by real steps, one whose samples are hostile, and a browser."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.build import build
from thinkery.pipeline.record import rollout_row
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.view.app import create_app
from thinkery.view.library import Library

EXAM = [Task(f"sums/{n}", f"How much is {n} + {n}?", "math", str(2 * n), "en", "sums") for n in range(40)]
RIGHT = {"base": 10, "zero": 38, "cold-start": 20}
"""How many of the exam's questions each model answers, the first ones."""

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    '"><svg onload="window.hacked = 1"></textarea></title></style><!--',
    "\x1b[31mred\x1b]0;title\x07\x00 bell",
    "\u202eright to left and never back \u2066 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "half a character \ud83d and \udc00 and \ufffd",
    "x" * 1_000_000,
    "{{ 7 * 7 }} {% raw %} </script><script>window.hacked = 1</script>",
)
ODD = Task("odd/\"'<b>&?#%2F..", "<h1>What?</h1>\u202e", "math", "<i>4</i>", "en", "<u>odd</u>")


def attempt(task: Task, sample: int, right: bool, text: str = "") -> Rollout:
    """One judged attempt; without `text` it says what a model would."""
    answer = text or f"<answer>{task.gold if right else '?'}</answer>"
    thought = "I add them."
    scores = {
        "accuracy": Score(float(right), f"{task.gold} = {task.gold}" if right else f"? is not {task.gold}"),
        "format": Score(1.0, "a thought, then an answer"),
    }
    said = Completion(
        f"<think>{thought}</think>{answer}", tokens=(0,) * 12, thought=thought, answer=answer, closed=True
    )
    return Rollout(task, (), said, scores, right + 0.1, sample)


def base(run: Run) -> Model:
    """A model of nothing."""
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}"))


def problems(run: Run) -> Dataset:
    """Questions, of which one was left out."""
    writer = run.dataset()
    for number in range(100, 120):
        writer.count("kept", source="sums")
        writer.add({"id": f"train/{number}", "prompt": f"{number} + 1?"}, f"{number:06d}")
    return writer.finish()


def zero(run: Run, base: Model, tasks: Dataset) -> Model:
    """Twelve updates that help."""
    for number in range(1, 13):
        learn(run, number)
    run.event("preflight", completions=64, truncated=0.25, accuracy=0.5, no_spread=0.75)
    run.alarm("truncated", "half of the samples were cut", "zero.grpo.max_tokens")
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}"))


def learn(run: Run, number: int) -> None:
    """The record of one update."""
    draw = random.Random(number)
    groups = []
    for place in range(6):
        task = Task(f"train/{(number + place) % 10}", f"Train {(number + place) % 10}?", "math", "1", "en", "sums")
        groups.append(Group(task, tuple(attempt(task, n, draw.random() < number / 12) for n in range(4))))
    gains = [[rollout.reward - 0.5 for rollout in group.rollouts] for group in groups]
    run.rollouts(number, groups, gains)
    run.metrics(number, {"reward/mean": number / 12, "reward/accuracy/mean": number / 13, "completion/truncated": 0.1})
    run.progress(number, 12)


def cold_start(run: Run, base: Model, corpus: Dataset) -> Model:
    """Fine-tuning that costs accuracy."""
    run.metrics(1, {"optim/loss": 2.0})
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}"))


def corpus(run: Run, teacher: Model, tasks: Dataset) -> Dataset:
    """Three of ten samples stay."""
    writer = run.dataset()
    for number in range(10):
        task = EXAM[number]
        rollout = attempt(task, 0, right=number < 5)
        reason = "wrong" if number >= 5 else "in the exam" if number >= 3 else ""
        if reason:
            writer.count(f"dropped: {reason}", source=task.source, example=rollout_row(0, rollout))
            writer.skip(f"{number:04d}")
            continue
        writer.count("kept: reasoning", source=task.source)
        turns = [{"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.gold, "thought": "so"}]
        writer.add({"messages": turns, "source": task.source}, f"{number:04d}")
    return writer.finish()


def examine(run: Run, model: Model) -> Report:
    """The exam, two attempts at each question."""
    right = RIGHT[model.name]
    groups = [Group(task, tuple(attempt(task, n, i < right) for n in range(2))) for i, task in enumerate(EXAM)]
    run.rollouts(0, groups)
    share = right / len(EXAM)
    found = {"value": share, "low": share - 0.1, "high": share + 0.02, "n": len(EXAM)}
    return run.save_report({"stage": model.name, "metrics": {"pass@1": found, "length": found | {"value": 12.0}}})


def hostile(run: Run) -> Model:
    """Attempts that would like to act."""
    groups = [Group(ODD, tuple(attempt(ODD, n, False, text) for n, text in enumerate(HOSTILE)))]
    run.rollouts(1, groups)
    run.metrics(1, {"reward/mean": 0.5, "reward/<script>window.hacked = 1</script>/mean": 0.5})
    run.alarm("<b>loud</b>", "</script><script>window.hacked = 1</script>\x1b[31m", "<i>x</i>")
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder with the run `demo`, its like `again`, and `hostile`."""
    folder = tmp_path_factory.mktemp("runs")
    first, asked = step("base", base), step("problems", problems)
    learnt = step("zero", zero, base=first, tasks=asked)
    kept = step("corpus", corpus, teacher=learnt, tasks=asked)
    cold = step("cold-start", cold_start, base=first, corpus=kept)
    exams = [step(f"eval-{one.name}", examine, model=one) for one in (first, learnt, cold)]
    build({one.name: one for one in (first, asked, learnt, kept, cold, *exams)}, folder / "demo", seed=1)
    shutil.copytree(folder / "demo", folder / "again")
    build({"hostile": step("hostile", hostile)}, folder / "hostile", seed=1)
    return folder


@contextmanager
def serving(library: Library, ledger: Path | None = None) -> Iterator[str]:
    """The pages at an address of this machine."""
    config = uvicorn.Config(create_app(library, ledger=ledger), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def site(runs) -> Iterator[str]:
    """The address of the pages of `runs`."""
    with serving(Library([runs])) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of the system; while it runs, this thread has an event loop."""
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser):
    """A page that may not complain on its console."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    found, complaints = context.new_page(), []
    found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    yield found
    context.close()
    assert complaints == []
