"""Answers that are always the same are told, where questions have several."""

from __future__ import annotations

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.evals.guesses import Guesses
from thinkery.rewards.extract import final_answer


def asked(golds: list[str], answers: list[str | None], name: str = "letters", kind: str = "environment") -> Guesses:
    """Guesses after one question for each gold, all with these answers."""
    guesses = Guesses(final_answer)
    for n, gold in enumerate(golds):
        info = {"environment": {"name": name}} if kind == "environment" else {}
        task = Task(f"{name}-{n}", "?", kind, gold, source=name, info=info)
        rollouts = []
        for sample, answer in enumerate(answers):
            text = "" if answer is None else f"<answer>{answer}</answer>"
            said = Completion(text, thought="hm", answer=text, closed=True)
            rollouts.append(Rollout(task, (), said, {"accuracy": Score(float(answer == gold))}, 0.0, sample))
        guesses.add(Group(task, tuple(rollouts)))
    return guesses


def test_one_answer_to_questions_that_have_several_is_a_guess():
    (note,) = asked(["1"] * 6 + ["2"] * 4, ["1", "1", "1", "1", "5"]).notes()
    assert note == "40 of 50 answers to letters are '1', which is right in 60%: a guess"
    assert (
        asked(["a", "b"] * 5, ["A", "a."], name="exam", kind="choice").notes()[0].startswith("20 of 20 answers to exam")
    )


def test_nothing_is_said_of_what_may_be_no_guess():
    several = ["1"] * 6 + ["2"] * 4
    assert asked(several, ["1", "1", "1", "5"]).notes() == []  # three quarters
    assert asked(["1"] * 9 + ["2"], ["1"]).notes() == []  # the questions are alike
    assert asked(several[3:], ["1"]).notes() == []  # too few
    assert asked(several, [None, None]).notes() == []
    assert asked(several, ["1"], kind="code").notes() == []
    assert Guesses(final_answer).estimates() == {}
