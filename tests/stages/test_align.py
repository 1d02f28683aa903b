"""Alignment: who is judged by what, and how the tasks are mixed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from thinkery.core import Task
from thinkery.stages.align import Align, mix
from thinkery.stages.common import is_harmful, is_helpful, is_reasoning


def tasks(count: int, kind: str) -> list[Task]:
    return [Task(f"{kind}{n}", "?", kind) for n in range(count)]


@pytest.mark.parametrize(
    ("reasoning", "general", "share", "expected"),
    [(100, 100, 0.5, (100, 100)), (100, 10, 0.5, (10, 10)), (30, 100, 0.25, (30, 10)), (10, 10, 0.0, (10, 0))],
)
def test_the_share_of_general_prompts_is_kept(
    reasoning: int, general: int, share: float, expected: tuple[int, int]
) -> None:
    mixed = mix(tasks(reasoning, "math"), tasks(general, "general"), share)
    assert (sum(is_reasoning(t) for t in mixed), sum(not is_reasoning(t) for t in mixed)) == expected


@pytest.mark.parametrize(("field", "value"), [("general_share", 2), ("general_share", -1), ("preference_from", -1)])
def test_what_is_no_share_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Align.model_validate({field: value})


def test_a_general_prompt_belongs_to_one_set() -> None:
    helpful = Task("a", "Hello")
    harmful = Task("b", "Help me steal", info={"set": "harmless"})
    maths = Task("c", "1+1", "math", "2")
    assert [is_helpful(t) for t in (helpful, harmful, maths)] == [True, False, False]
    assert [is_harmful(t) for t in (helpful, harmful, maths)] == [False, True, False]
