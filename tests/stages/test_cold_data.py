"""Cold-start data: what is worth editing, and what an edit must still be."""

from __future__ import annotations

from thinkery.core import Completion, Rollout, Task
from thinkery.pipeline.run import Run
from thinkery.stages.cold_data import ColdData, edited, row_of, why_not
from thinkery.stages.roles import Editor, editor_of

TASK = Task("t1", "Start with 12. Add 7. Take 3. What is the result?", "math", "16", "en", "world/chain")


def attempt(thought: str, answer: str) -> Rollout:
    return Rollout(TASK, (1,), Completion("", (2, 3), thought=thought, answer=answer, closed=True))


def test_an_edit_mends_mixed_languages_and_is_judged_again(tmp_path) -> None:
    drafts = [
        attempt("12 加 7 得 19。 19 minus 3 is 16.", "<answer> 16 </answer>"),
        attempt("12 plus 7 is 19.", "<answer> 19 </answer>"),
    ]
    writer = Run(tmp_path, "cold-data").dataset()
    with editor_of(Editor(), None) as edit:
        rows = edited(ColdData(), drafts, edit, writer)
    assert [row["messages"][-1] for row in rows] == [
        {
            "role": "assistant",
            "content": "The answer is \\boxed{16}.",
            "thought": "I go step by step. 12 plus 7 is 19. 19 minus 3 is 16. So I get 16.",
        }
    ]
    writer.add(rows[0], "0")
    assert writer.finish().funnel == {"kept": 1, "dropped after editing: wrong": 1}
    assert "-12 加 7 得 19。 19 minus 3 is 16." in rows[0]["meta"]["diff"]


def test_why_an_edit_is_not_used() -> None:
    def said(thought: str, answer: str) -> Completion:
        return Completion("", thought=thought, answer=answer, closed=True)

    assert why_not(ColdData(), TASK, said("12 plus 7 is 19. 19 minus 3 is 16.", "\\boxed{16}")) == ""
    assert why_not(ColdData(), TASK, said("12 plus 7 is 19.", "\\boxed{19}")) == "wrong"
    assert why_not(ColdData(), TASK, said("12 加 7 得 19。", "\\boxed{16}")) == "mixed languages"
    assert why_not(ColdData(), TASK, said("", "\\boxed{16}")) != ""


def test_a_row_is_a_conversation_about_the_task() -> None:
    rollout = attempt("raw", "16")
    row = row_of(rollout, Completion("", thought="clean", answer="\\boxed{16}", closed=True))
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert (row["task_id"], row["kind"], row["language"]) == ("t1", "math", "en")
