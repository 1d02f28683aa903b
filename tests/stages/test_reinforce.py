"""What the stages of reinforcement learning watch while they train."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from thinkery.chat import THINK_CHAT
from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.engine.vllm import VllmConfig
from thinkery.errors import ConfigError
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.pipeline.artifact import Dataset, task_to_row
from thinkery.pipeline.ranks import Ranks
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.rubric import Rubric
from thinkery.stages.reinforce import Reinforce, longest_text, require_shared, servers_of, sized, watch
from thinkery.tasks.world import general, problems

SUMS = list(problems("held-out", 1, 3, kinds=("chain",)))
PROMPTS = list(general("held-out", 1, 3))


def anything(task: Task, completion: Completion) -> float:
    return 1.0


def exam_of(folder: Path, tasks: Iterable[Task]) -> Dataset:
    writer = Run(folder, "exam").dataset()
    for n, task in enumerate(tasks):
        writer.add(task_to_row(task), f"{n:04d}")
    return writer.finish()


def test_every_rank_has_servers_of_its_own() -> None:
    second = Ranks()
    second.rank, second.count = 1, 2
    three, one = VllmConfig(url=("http://a", "http://b", "http://c")), VllmConfig(python="python", devices=("1",))
    assert servers_of(three, second).url == ("http://b",)
    assert servers_of(three, Ranks()) == three
    with pytest.raises(ConfigError, match=r"every rank needs a server of its own \(found 1 for 2 ranks\)"):
        servers_of(one, second)


def test_several_ranks_have_to_say_how_many_actors_each_has() -> None:
    second, cluster = Ranks(), EngineConfig(ray="auto")
    second.rank, second.count = 1, 2
    require_shared(cluster, Ranks())
    require_shared(cluster.model_copy(update={"processes": 1}), second)
    with pytest.raises(ConfigError, match=r"every rank needs actors of its own \(found 0, as many as"):
        require_shared(cluster, second)


def test_on_a_gpu_the_engine_has_room_for_what_is_asked_and_no_more(tmp_path: Path) -> None:
    """The longer exam question counts, of those that are watched; with tokens for the longest answer of all updates."""
    _, tokenizer = load_model(locate("tiny"))
    tokenizer = tokenizer.with_template("{{ messages[-1].content }}")
    short, long, unwatched = (Task(f"{n}", " ball" * n, kind="math", gold="1") for n in (3, 7, 99))
    cfg: Any = Reinforce(watched=1, grpo={"max_tokens": ((0, 20), (5, 30), (9, 4)), "eval_every": 1})  # type: ignore[arg-type]
    exam = exam_of(tmp_path / "exam", [long, unwatched])
    assert longest_text(tokenizer, [short], cfg) == 3 + 30
    gpu: Any = SimpleNamespace(device=torch.device("cuda"), tokenizer=tokenizer)
    assert sized(cfg, gpu, [short], exam).engine.max_len == 7 + 30
    assert sized(cfg, gpu, [short], None).engine.max_len == 3 + 30
    assert sized(cfg, gpu, lambda update: [short], exam) == cfg
    cpu: Any = SimpleNamespace(device=torch.device("cpu"), tokenizer=tokenizer)
    assert sized(cfg, cpu, [short], exam) == cfg


@pytest.mark.parametrize(("tasks", "watched", "asks"), [(SUMS, 2, True), (SUMS, 0, False), (PROMPTS, 2, False)])
def test_only_questions_with_a_rule_are_watched(tmp_path: Path, tasks: list[Task], watched: int, asks: bool) -> None:
    cfg: Any = Reinforce(watched=watched, grpo={"max_tokens": ((0, 4),)})  # type: ignore[arg-type]
    network, tokenizer = load_model(locate("tiny"))
    with open_engine(network, tokenizer.with_template(THINK_CHAT), EngineConfig(max_batch=2)) as engine:
        exam = exam_of(tmp_path / "exam", tasks)
        measure = watch(Run(tmp_path / "zero", "zero"), cfg, engine, exam, Rubric(accuracy=accuracy))
        assert (measure is not None) == asks
        if measure:
            assert measure() == {"eval/exam/pass@1": 0.0}  # four tokens are too few for an answer
            generous = watch(Run(tmp_path / "own", "own"), cfg, engine, exam, Rubric(accuracy=anything))
            assert generous
            assert generous() == {"eval/exam/pass@1": 1.0}  # judged as in training
