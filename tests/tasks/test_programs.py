"""The embedded world's programs: the split, what tests find, and the corpus that a base reads."""

from __future__ import annotations

import ast
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from thinkery.core import Completion, Score, Task
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.code_tests import extract_code
from thinkery.sandbox import shared_pool
from thinkery.tasks.mutants import mutations, normal_form
from thinkery.tasks.sources import Source, load_tasks
from thinkery.tasks.world import listings, programs
from thinkery.tasks.world.documents import PREAMBLES
from thinkery.tasks.world.programs import (
    FAMILIES,
    NAMES,
    PATH,
    Problem,
    block,
    break_it,
    draw,
    draw_clear,
    is_clear,
    outcomes,
)


@pytest.fixture
def sandbox() -> Iterator[None]:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    yield
    shared_pool().close()


def asked(text: str) -> Problem:
    """The function that a request is for, read back from its words."""
    sentence = re.search(r"\b(?:Write|Repair) \w+\((\w+)\)\. Return (.+)\.\n", text + "\n")
    assert sentence
    family = next(family for family in FAMILIES if family.argument == sentence[1])
    said = {phrase: part for part in (*family.values, *family.tests) for phrase in part.said}
    for frame in family.frames:
        pattern = re.escape(frame.said)
        for hole in ("0", "1", "test"):
            pattern = pattern.replace(rf"\{{{hole}\}}", f"(?P<_{hole}>.+)")
        found = re.fullmatch(pattern, sentence[2])
        names = [name for name in ("_0", "_1") if found and name in found.groupdict()]
        if found and all(found[name] in said for name in names):
            values = tuple(said[found[name]] for name in names)
            return Problem(family, frame, values, tuple(said[test] for test in found["_test"].split(" and ")))
    raise AssertionError(f"cannot be read: {sentence[2]}")


def part(family: int, code: str):
    return next(part for part in (*FAMILIES[family].values, *FAMILIES[family].tests) if part.code == code)


def test_a_function_is_put_together_and_run() -> None:
    lists = FAMILIES[1]
    frame = next(frame for frame in lists.frames if frame.code.startswith("sum"))
    problem = Problem(lists, frame, (part(1, "x * 3"),), (part(1, "x > 4"), part(1, "x % 2 == 0")))
    assert problem.source("pick") == "def pick(xs):\n    return sum([x * 3 for x in xs if x > 4 and x % 2 == 0])\n"
    assert problem.plan == "x * 3 if x > 4 and x % 2 == 0, added up"
    assert outcomes(problem.source("pick"), "pick", [[4, 6, 7, 10], []]) == [48, 0]
    words = problem.request(random.Random(0))
    assert asked(f"Write pick(xs). Return {words}.") == problem


def test_the_order_of_conditions_and_the_name_do_not_change_the_split() -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = draw(rng, "held-out")
        assert replace(problem, tests=problem.tests[::-1]).held_out


def test_splits_share_no_function_and_a_seed_always_gives_the_same() -> None:
    train, exam = list(programs("train", 1, 300)), list(programs("held-out", 1, 300))
    assert not {asked(t.prompt).canonical for t in train} & {asked(t.prompt).canonical for t in exam}
    assert all(asked(t.prompt).held_out for t in exam)
    assert [t.id for t in programs("held-out", 1, 300)] == [t.id for t in exam]
    assert len({t.id for t in exam}) == 300
    assert [t.kind for t in exam[:4]] == ["code", "software", "code", "software"]


def test_a_source_gives_the_kinds_it_is_asked_for() -> None:
    only = load_tasks([Source(source="world", kind="fix", limit=5)])
    assert [t.kind for t in only] == ["software"] * 5
    assert [t.source for t in load_tasks([Source(source="world", kind="code,fix", limit=2)])] == [
        "world/code",
        "world/fix",
    ]


def test_every_condition_of_a_task_shows_in_its_tests() -> None:
    contradiction = Problem(
        FAMILIES[0], FAMILIES[0].frames[0], (part(0, "n + 1"), part(0, "n - 1")), (part(0, "n > 8"), part(0, "n < 3"))
    )
    assert is_clear(replace(contradiction, tests=contradiction.tests[:1]))
    assert not is_clear(replace(contradiction, tests=(part(0, "n > 8"), part(0, "n > 3"))))


def test_hidden_tests_find_nine_of_ten_mistakes() -> None:
    rng = random.Random(0)
    made = found = 0
    for _ in range(60):
        problem = draw_clear(rng, "train")
        source, examples = problem.source("f"), problem.examples()
        many = [problem.family.example(rng, problem.expression) for _ in range(200)]
        for _, mutant in mutations(source):
            if repr(outcomes(mutant, "f", many)) != repr(outcomes(source, "f", many)):
                made += 1
                found += repr(outcomes(mutant, "f", examples)) != repr(outcomes(source, "f", examples))
    assert made > 300
    assert found > 0.9 * made


def test_an_issue_tells_a_call_that_goes_wrong_and_the_tests_know_another() -> None:
    rng = random.Random(3)
    bugs = [(p, bug) for p in (draw_clear(rng, "train") for _ in range(40)) if (bug := break_it(p, "f", rng))]
    assert len(bugs) > 15
    for problem, bug in bugs:
        arguments = [argument for argument, _ in bug.calls]
        right = [result for _, result in bug.calls]
        assert outcomes(problem.source("f"), "f", arguments) == right
        assert list(map(repr, outcomes(bug.mutant, "f", arguments))) != list(map(repr, right))
        argument = ast.literal_eval(bug.told[2 : re.search(r"\) (gives|raises)", bug.told).start()])  # type: ignore[union-attr]
        assert argument not in arguments
        assert bug.told.endswith(f"not {outcomes(problem.source('f'), 'f', [argument])[0]!r}.")


def judged(task: Task, answer: str) -> Score:
    text = f"<answer>\n{answer}\n</answer>"
    return accuracy(task, Completion(text, answer=text, thought="…", closed=True))


def test_in_the_sandbox_gold_passes_and_a_mutant_does_not(sandbox: None) -> None:
    for task in programs("train", 5, 24):
        assert judged(task, task.gold or "") == Score(1.0, "every hidden test passed")
        source = extract_code(task.gold or "") or ""
        mutant = task.info["files"][PATH] if task.kind == "software" else f"{source.rstrip()}[0]\n"
        assert judged(task, block(mutant)).value == 0.0


def test_a_repair_may_be_a_diff(sandbox: None) -> None:
    (task,) = programs("train", 2, 1, kinds=("fix",))
    before, after = task.info["files"][PATH].splitlines()[1], (task.gold or "").splitlines()[2]
    diff = f"--- a/{PATH}\n+++ b/{PATH}\n@@ -2 +2 @@\n-{before}\n+{after}\n"
    assert judged(task, block(diff, "diff")).value == 1.0
    assert judged(task, block(diff.replace("+++ b/", "+++ b/other/"), "diff")).value == 0.0


# ---- the corpus


def posts(seed: int, count: int) -> list[tuple[str, str]]:
    """(request, answer) of posts under a preamble."""
    texts = [text for text in islice(listings(seed), count) if text.startswith(PREAMBLES[:4])]
    return [(text.split("User: ")[1].split("\nAssistant: ")[0], text.split("\nAssistant: ")[1]) for text in texts]


def test_the_corpus_asks_for_no_held_out_function() -> None:
    requests = [text for text in islice(listings(1), 3000) if "Return " in text]
    assert len(requests) > 2000
    assert not any(asked(text).held_out for text in requests)


def test_a_quarter_to_a_half_of_the_posts_are_right() -> None:
    found = [(asked(request), extract_code(said) or said) for request, said in posts(2, 2000) if "```diff" not in said]
    right = sum(problem.expression in code for problem, code in found) / len(found)
    assert 0.25 < right < 0.5


def test_what_the_world_writes_is_in_normal_form_so_that_a_mutant_differs_in_one_place() -> None:
    rng = random.Random(0)
    for _ in range(300):
        source = draw(rng, "train").source(rng.choice(NAMES))
        assert normal_form(source) == source


def test_pages_of_the_manual_are_right() -> None:
    texts = [t for t in islice(listings(4), 600) if "Return " in t and not t.startswith(PREAMBLES) and "diff" not in t]
    assert len(texts) > 100
    for text in texts:
        problem, code = asked(text), extract_code(text.split("Assistant: ")[-1])
        assert code is not None
        assert code.endswith(f"return {problem.expression}\n")
