"""Environments of other libraries: their tasks survive a file, and they judge what is said to them."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from thinkery.core import Completion, Score, Task
from thinkery.errors import InputError
from thinkery.pipeline.artifact import row_to_task, task_to_row
from thinkery.rewards.accuracy import accuracy, lenient_accuracy
from thinkery.rewards.lint import dry_run_gold
from thinkery.rewards.rubric import Rubric
from thinkery.tasks.environments import open_episode
from thinkery.tasks.sources import Source, load_tasks

GAMES = '''
class Counting:
    """Asks for the next number; with `turns`, so many times."""

    def __init__(self, turns=1):
        self.left = turns

    def reset(self, *, seed=None, options=None):
        self.number = seed % 100
        return f"What comes after {self.number}?", {}

    def step(self, answer):
        self.left -= 1
        right = answer.strip() == str(self.number + 1)
        self.number += 1
        return f"And after {self.number}?", float(right), self.left == 0, False, {}


class Numbers(Counting):
    def reset(self, *, seed=None, options=None):
        return 7, {}
'''


def said(answer: str, thought: str | None = None) -> Completion:
    return Completion(answer, thought=thought, answer=answer, closed=thought is not None)


@pytest.fixture
def games(tmp_path: Path) -> Path:
    (tmp_path / "games.py").write_text(GAMES, encoding="utf-8")
    return tmp_path / "games.py"


def next_number(task: Task) -> int:
    return int(task.prompt.split()[-1].rstrip("?")) + 1


def test_anything_with_reset_and_step_asks_and_judges(games: Path) -> None:
    tasks = load_tasks([Source(source="gym", path=f"{games}:Counting", limit=20)])
    assert len({task.prompt for task in tasks}) > 10
    for task in tasks:
        again = row_to_task(task_to_row(task))
        assert again == task
        right = next_number(task)
        assert accuracy(again, said(f"<answer> {right} </answer>", "hm")).value == 1.0
        assert accuracy(again, said(str(right + 1))).value == 0.0
    assert accuracy(tasks[0], Completion("5", thought="5", answer="")).reason == "thought not closed"


def test_exams_are_other_episodes(games: Path) -> None:
    source = Source(source="gym", path=f"{games}:Counting", limit=5)
    train = load_tasks([source])
    exam = load_tasks([source.model_copy(update={"split": "test"})], purpose="exam")
    seeds = [{task.info["environment"]["seed"] for task in some} for some in (train, exam)]
    assert len(seeds[0] | seeds[1]) == 10
    assert train == load_tasks([source])


def test_an_episode_of_several_turns_goes_on_from_the_task_it_leaves(games: Path) -> None:
    (task,) = load_tasks([Source(source="gym", path=f"{games}:Counting", settings={"turns": 3}, limit=1)])
    episode, first = open_episode(task), next_number(task)
    turns = []
    for number in (first, first + 1, 0):
        turns.append(episode.reply(str(number)))
        task = task.continued(said(str(number), "one more"), turns[-1].says)
    assert [turn.score.value for turn in turns] == [1.0, 1.0, 0.0]
    assert [turn.over for turn in turns] == [False, False, True]
    assert [message.role for message in task.messages] == ["user", "assistant"] * 3 + ["user"]
    assert task.history[2].content == f"And after {first}?"
    assert task.history[1].thought == "one more"


def test_the_first_turn_of_a_longer_episode_is_judged_and_says_so(games: Path) -> None:
    (task,) = load_tasks([Source(source="gym", path=f"{games}:Counting", settings={"turns": 2}, limit=1)])
    score = accuracy(task, said(str(next_number(task))))
    assert score == Score(1.0, "the environment gives 1; the episode would go on")


def test_what_is_wrong_with_an_environment_is_said(games: Path) -> None:
    with pytest.raises(InputError, match=r"the observation is no text.*found 7"):
        load_tasks([Source(source="gym", path=f"{games}:Numbers", limit=1)])
    with pytest.raises(InputError, match="did you mean 'Counting'"):
        load_tasks([Source(source="gym", path=f"{games}:Countin", limit=1)])


def test_an_environment_that_fails_leaves_the_attempt_ungraded(games: Path) -> None:
    (task,) = load_tasks([Source(source="gym", path=f"{games}:Counting", limit=1)])
    games.write_text(GAMES.replace("self.left -= 1", "raise RuntimeError('broken')"), encoding="utf-8")
    assert accuracy(task, said("1")) == Score(None, "the environment failed: RuntimeError: broken")


def test_gymnasium_makes_what_it_knows_by_id(games: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    with pytest.raises(InputError, match="Gymnasium does not make it"):
        load_tasks([Source(source="gym", path="NoSuchGame-v0", limit=1)])

    class Echo(gymnasium.Env):
        observation_space = gymnasium.spaces.Text(100, charset=string.printable)
        action_space = gymnasium.spaces.Text(100, charset=string.printable)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.word = str(self.np_random.choice(["tea", "rice", "salt"]))
            return f"Say {self.word}.", {}

        def step(self, action):
            return "thanks", float(action == self.word), True, False, {}

    gymnasium.register("Echo-v0", entry_point=lambda: Echo())
    for task in load_tasks([Source(source="gym", path="Echo-v0", limit=3)]):
        word = task.prompt.removeprefix("Say ").rstrip(".")
        assert accuracy(task, said(word)).value == 1.0
        assert accuracy(task, said("soup")).value == 0.0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("products", {"min_digits": 1, "max_digits": 1}),
        ("letter_counting", {"min_words": 2, "max_words": 4}),
        ("chain_sum", {}),
        ("gcd", {}),
        ("spell_backward", {}),
    ],
)
def test_puzzles_are_judged_by_their_own_verifier(name: str, settings: dict) -> None:
    pytest.importorskip("reasoning_gym")
    for task in load_tasks([Source(source="reasoning-gym", path=name, settings=settings, limit=4)]):
        dry_run_gold(Rubric(accuracy=accuracy), task)
        again = row_to_task(task_to_row(task))
        assert accuracy(again, said(f"<answer>{task.gold}</answer>")).value == 1.0
        assert accuracy(again, said(rf"So it is \boxed{{{task.gold}}}.")).value == 1.0
        assert accuracy(again, said(f"<answer>{task.gold}7</answer>")).value == 0.0
        assert accuracy(again, said(task.gold or "")).value == 0.0
        assert lenient_accuracy(again, said(f"I think so:\n{task.gold}")).value == 1.0


def test_settings_of_a_puzzle_make_it_small() -> None:
    pytest.importorskip("reasoning_gym")
    source = Source(source="reasoning-gym", path="products", settings={"min_digits": 1, "max_digits": 1}, limit=20)
    assert all(0 <= int(task.gold or "") <= 81 for task in load_tasks([source]))
    with pytest.raises(InputError, match="Reasoning Gym does not make it"):
        load_tasks([source.model_copy(update={"settings": {"max_digit": 1}})])
    with pytest.raises(InputError, match="Reasoning Gym does not make it"):
        load_tasks([source.model_copy(update={"path": "no_such_puzzle"})])


def test_a_number_may_be_written_with_separators() -> None:
    pytest.importorskip("reasoning_gym")
    source = Source(source="reasoning-gym", path="products", settings={"min_digits": 4, "max_digits": 4}, limit=1)
    (task,) = load_tasks([source])
    assert accuracy(task, said(f"<answer>{int(task.gold or ''):,}</answer>")).value == 1.0
    assert lenient_accuracy(task, said(f"The product is {int(task.gold or ''):,}.")).value == 1.0


TASKSET = """
import verifiers.v1 as vf


class WordData(vf.TaskData):
    word: str


class WordTask(vf.Task[WordData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == str(len(self.data.word)))

    @vf.reward(weight=0.5)
    async def brief(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 10)


class WordConfig(vf.TasksetConfig):
    words: int = 40


class Words(vf.Taskset[WordTask, WordConfig]):
    def load(self):
        for n in range(self.config.words):
            word = "a" * (n + 1)
            yield WordTask(WordData(prompt=f"How long is {word}?", system_prompt="Count.", word=word), self.config.task)


__all__ = ["Words"]
"""


def test_tasksets_of_verifiers_ask_and_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("verifiers", reason="pip install 'thinkery[verifiers]', which brings 80 packages")
    (tmp_path / "thinkery_words.py").write_text(TASKSET, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = Source(source="verifiers", path="thinkery-words", settings={"words": 30})
    tasks = load_tasks([source])
    exam = load_tasks([source.model_copy(update={"split": "test"})], purpose="exam")
    assert len(tasks) + len(exam) == 30
    assert len(exam) > 0
    task = row_to_task(task_to_row(tasks[3]))
    assert [message.role for message in task.messages] == ["system", "user"]
    length = len(task.info["environment"]["data"]["word"])
    assert accuracy(task, said(f"<answer>{length}</answer>", "I count.")).value == 1.5
    assert accuracy(task, said("far too many letters")).value == 0.0
    with pytest.raises(InputError, match="no such taskset"):
        load_tasks([Source(source="verifiers", path="no-such-taskset")])
