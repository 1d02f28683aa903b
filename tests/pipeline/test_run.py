"""What a stage records, how it is cut back to a checkpoint, and how torn files are repaired."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from thinkery.core import Completion, Group, Message, Rollout, Score, Task
from thinkery.errors import DiskFull, HashMismatch, InputError
from thinkery.pipeline.artifact import row_to_task, task_to_row
from thinkery.pipeline.card import licence
from thinkery.pipeline.files import append_row, read_rows, read_state, write_file
from thinkery.pipeline.ranks import Ranks
from thinkery.pipeline.run import Run


def saving(text: str):
    """A `save` that writes one file."""
    return lambda folder: (folder / "state").write_text(text)


def group(task: Task, *rewards: float | None) -> Group:
    """A group whose attempts earned `rewards`."""
    completion = Completion("<think>a</think>b", tokens=(1, 2, 3), thought="a", answer="b", closed=True, version=4)
    rollouts = [
        Rollout(task, (9,), completion, {"accuracy": Score(reward, "because")}, reward, sample)
        for sample, reward in enumerate(rewards)
    ]
    return Group(task, tuple(rollouts))


def test_every_attempt_is_a_row_with_each_reward_and_its_reason(tmp_path):
    task = Task("q1", "1+1?", "math", gold="2", language="en", source="world")
    Run(tmp_path, "zero").rollouts(3, [group(task, 1.0, None)], [[0.5, None]])
    first, second = read_rows(tmp_path / "rollouts" / "000003.jsonl.gz")
    assert first == {
        "step": 3,
        "task": "q1",
        "kind": "math",
        "source": "world",
        "prompt": "1+1?",
        "gold": "2",
        "language": "en",
        "sample": 0,
        "text": "<think>a</think>b",
        "thought": "a",
        "answer": "b",
        "closed": True,
        "finish": "stop",
        "tokens": 3,
        "version": 4,
        "reward": 1.0,
        "scores": {"accuracy": {"value": 1.0, "reason": "because"}},
        "advantage": 0.5,
    }
    assert (second["sample"], second["reward"], second["scores"]["accuracy"]["value"]) == (1, None, None)
    assert "advantage" not in second


def test_equal_rollouts_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        Run(tmp_path / name, "zero").rollouts(1, [group(Task("q", "p"), 1.0)])
    one, two = ((tmp_path / name / "rollouts" / "000001.jsonl.gz").read_bytes() for name in ("a", "b"))
    assert one == two


def test_a_number_that_json_does_not_know_is_null(tmp_path):
    Run(tmp_path, "zero").metrics(1, {"loss": float("nan"), "kl": float("inf"), "lr": 0.5})
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["loss"], row["kl"], row["lr"]) == (None, None, 0.5)


def test_the_newest_two_checkpoints_stay(tmp_path):
    run = Run(tmp_path, "zero")
    for step in (1, 2, 10):
        run.checkpoint(step, saving(str(step)))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000002", "step-000010"]
    step, folder = run.latest() or (0, tmp_path)
    assert (step, (folder / "state").read_text()) == (10, "10")


def test_so_does_the_newest_at_which_no_alarm_rang(tmp_path):
    run = Run(tmp_path, "zero")
    for step, ringing in ((1, []), (2, []), (3, ["kl"]), (4, ["kl"]), (5, ["kl", "entropy"])):
        run.checkpoint(step, saving(str(step)), ringing)
    there = tmp_path / "checkpoints"
    assert sorted(p.name for p in there.iterdir()) == ["step-000002", "step-000004", "step-000005"]
    run.checkpoint(6, saving("6"))
    assert sorted(p.name for p in there.iterdir()) == ["step-000005", "step-000006"]


def test_what_came_after_the_checkpoint_moves_aside_and_the_curve_continues(tmp_path):
    run = Run(tmp_path, "zero", attempt=1)
    for step in (1, 2, 3):
        run.metrics(step, {"n": step})
        run.rollouts(step, [group(Task("q", "p"), float(step))])
        run.event("thought", about=step)
        if step == 2:
            run.checkpoint(step, saving("2"))
    again = Run(tmp_path, "zero", attempt=2)
    assert (again.latest() or (0,))[0] == 2
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [p.name for p in sorted((tmp_path / "rollouts").iterdir())] == ["000001.jsonl.gz", "000002.jsonl.gz"]
    assert [row["about"] for row in read_rows(tmp_path / "events.jsonl") if row["kind"] == "thought"] == [1, 2]
    aside = tmp_path / "attempts" / "2" / tmp_path.name
    assert [row["step"] for row in read_rows(aside / "metrics.jsonl")] == [3]
    assert [row["about"] for row in read_rows(aside / "events.jsonl")] == [3]
    assert [p.name for p in (aside / "rollouts").iterdir()] == ["000003.jsonl.gz"]


def test_without_a_checkpoint_everything_recorded_moves_aside(tmp_path):
    Run(tmp_path, "zero").metrics(1, {"n": 1})
    assert Run(tmp_path, "zero", attempt=2).latest() is None
    assert list(read_rows(tmp_path / "metrics.jsonl")) == []


def test_an_event_cannot_take_the_fields_that_every_event_has(tmp_path):
    with pytest.raises(ValueError, match="every event has these fields already: at, step"):
        Run(tmp_path, "zero").event("x", at=1, step=2)


def test_events_of_other_steps_stay_where_they_are(tmp_path):
    Run(tmp_path / "a", "a", root=tmp_path).event("x")
    Run(tmp_path / "b", "b", root=tmp_path).event("y")
    Run(tmp_path / "a", "a", root=tmp_path, attempt=2).latest()
    assert [(row["step"], row["kind"]) for row in read_rows(tmp_path / "events.jsonl")] == [("b", "y")]


def test_a_checkpoint_whose_bytes_changed_is_refused_with_the_way_out(tmp_path):
    run = Run(tmp_path, "zero")
    run.checkpoint(1, saving("one"))
    (tmp_path / "checkpoints" / "step-000001" / "state").write_text("two")
    with pytest.raises(HashMismatch, match=r"rm -r .*step-000001"):
        run.latest()


def test_a_checkpoint_that_fails_half_way_leaves_the_one_before(tmp_path):
    run = Run(tmp_path, "zero")
    run.checkpoint(1, saving("one"))

    def fail(folder):
        (folder / "state").write_text("tw")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="step-000002: no room left to write"):
        run.checkpoint(2, fail)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_checkpoint_without_its_note_is_none(tmp_path):
    run = Run(tmp_path, "zero")
    for step in (1, 2):
        run.checkpoint(step, saving(str(step)))
    (tmp_path / "checkpoints/step-000002/checkpoint.json").unlink()
    latest = Run(tmp_path, "zero").latest()
    assert latest
    assert latest[0] == 1


@pytest.mark.parametrize("name", ["progress.json", "sinks/tensorboard.json"])
def test_what_a_power_cut_has_emptied_stops_nobody(tmp_path, name):
    Run(tmp_path, "zero").progress(3, 9)
    write_file(tmp_path / name, "")
    assert Run(tmp_path, "zero").seconds < 1
    assert read_state(tmp_path / name) is None


def test_room_is_checked_before_a_checkpoint_is_begun(tmp_path):
    run = Run(tmp_path, "zero")
    run.checkpoint(1, saving("one"))
    os.truncate(tmp_path / "checkpoints" / "step-000001" / "state", 8 * 10**12)  # sparse: larger than what is free
    with pytest.raises(DiskFull, match=r"free of 8 TB needed"):
        run.checkpoint(2, lambda folder: pytest.fail("it must not begin"))
    (alarm,) = [row for row in read_rows(tmp_path / "events.jsonl") if row["kind"] == "alarm"]
    assert (alarm["alarm"], alarm["setting"]) == ("disk", "--dir")
    assert alarm["advice"].startswith("free some space")


def test_with_room_for_two_checkpoints_no_alarm_rings(tmp_path):
    run = Run(tmp_path, "zero")
    for step in (1, 2, 3):
        run.checkpoint(step, saving("small"))
    assert {row["kind"] for row in read_rows(tmp_path / "events.jsonl")} == {"checkpoint"}


def test_a_torn_last_line_is_left_out_when_read_and_cut_when_written(tmp_path):
    path = tmp_path / "log.jsonl"
    append_row(path, {"n": 1})
    with open(path, "ab") as file:
        file.write(b'{"n": 2, "te')
    assert list(read_rows(path)) == [{"n": 1}]
    append_row(path, {"n": 3})
    assert path.read_text() == '{"n": 1}\n{"n": 3}\n'


def test_a_bad_line_before_the_last_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 1}\noops\n{"n": 3}\n')
    with pytest.raises(InputError, match=r"log\.jsonl:2: not a line of JSON"):
        list(read_rows(path))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_file(path, "old")
    with pytest.raises(TypeError):
        write_file(path, 3)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


class Second(Ranks):
    """The second of two ranks, the first of which wants to stop."""

    rank, count = 1, 2

    def any(self, flag: bool) -> bool:
        return True


def test_only_rank_0_writes(tmp_path):
    run = Run(tmp_path, "zero", ranks=Second())
    saved = []
    run.metrics(1, {"n": 1})
    run.rollouts(1, [group(Task("q", "p"), 1.0)])
    run.event("x")
    run.alarm("y", "z")
    run.progress(1, 2)
    run.checkpoint(1, saved.append)
    assert list(tmp_path.iterdir()) == []
    assert len(saved) == 1  # what is in parts on the ranks needs all of them to be saved


def test_ranks_agree_on_stopping_when_they_tell_their_progress(tmp_path):
    run = Run(tmp_path, "zero", ranks=Second())
    run.stopping = True
    assert not run.stopping
    run.stopping = False
    run.progress(1, 2)
    assert run.stopping


def test_a_dataset_continues_after_a_torn_line_and_its_rows_come_in_key_order(tmp_path):
    writer = Run(tmp_path, "corpus").dataset()
    writer.count("made", 2)
    writer.add({"n": 2}, key="b")
    writer.count("made", 5)  # never followed by a row: lost with the work it belongs to
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.write(b'{"key": "c", "ro')
    again = Run(tmp_path, "corpus").dataset()
    assert again.keys == {"b"}
    again.count("made", 2)
    again.add({"n": 2}, key="b")  # done before: neither written nor counted again
    again.count("made")
    again.count("wrong")
    again.skip("c")
    again.count("made")
    again.add({"n": 1}, key="a")
    made = again.finish(source="toy")
    assert list(made.rows()) == [{"n": 1}, {"n": 2}]
    assert made.funnel == {"made": 4, "wrong": 1}
    assert (len(made), made.meta) == (2, {"source": "toy"})


def test_a_key_used_twice_for_different_rows_is_a_mistake(tmp_path):
    writer = Run(tmp_path, "corpus").dataset()
    writer.add({"n": 1}, key="a")
    with pytest.raises(ValueError, match="two rows have the key 'a'"):
        writer.add({"n": 2}, key="a")


def test_an_empty_dataset_is_a_dataset(tmp_path):
    made = Run(tmp_path, "corpus").dataset().finish()
    assert (len(made), list(made.rows()), made.funnel) == (0, [], {})


def test_a_task_survives_json(tmp_path):
    task = Task("a", "and 2+2?", "math", "4", "en", "world", (Message("assistant", "2", "easy"),), {"level": 3})
    assert row_to_task(task_to_row(task)) == task
    worded = replace(task, chat_template="{{ messages[-1].content }}")
    assert row_to_task(task_to_row(worded)) == worded
    writer = Run(tmp_path, "tasks").dataset()
    writer.add(task_to_row(task), key=task.id)
    assert list(writer.finish().tasks()) == [task]


def test_a_row_that_is_no_task_is_named(tmp_path):
    writer = Run(tmp_path, "tasks").dataset()
    writer.add({"id": "x"}, key="x")
    with pytest.raises(InputError, match="row 1 is not a task: no 'prompt'"):
        list(writer.finish().tasks())


def test_a_report_keeps_its_files_beside_its_figures(tmp_path):
    made = Run(tmp_path, "report").save_report({"pass@1": 0.5}, {"report.html": "<p>", "curve.png": b"\x89"})
    assert made.data == {"pass@1": 0.5}
    assert sorted(p.name for p in made.folder.iterdir()) == ["curve.png", "report.html", "report.json"]


def test_what_was_left_out_is_counted_by_source_with_examples(tmp_path):
    def work(folder, rows) -> None:
        writer = Run(folder, "corpus").dataset()
        for i in rows:
            if i % 2:
                writer.count("dropped: odd", source="wells", example={"i": i})
                writer.skip(f"{i:04d}")
            else:
                writer.count("kept", source="books" if i % 4 else "wells")
                writer.add({"i": i}, f"{i:04d}")

    work(tmp_path / "killed", range(21))
    for name in ("killed", "whole"):
        work(tmp_path / name, range(60))
    killed, whole = (Run(tmp_path / name, "corpus").dataset().finish() for name in ("killed", "whole"))
    assert whole.funnel == killed.funnel == {"kept": 30, "dropped: odd": 30}
    assert whole.funnel_by_source == {"wells": {"kept": 15, "dropped: odd": 30}, "books": {"kept": 15}}
    assert (
        [one["row"]["i"] for one in killed.dropped()]
        == list(range(1, 25, 2))
        == [o["row"]["i"] for o in whole.dropped()]
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("license: mit", "mit"),
        ('license: "apache-2.0"', "apache-2.0"),
        ("license: mit  # as published", "mit"),
        ("license: [mit]", ""),
    ],
)
def test_the_licence_of_a_card_is_read_from_its_header(line: str, found: str) -> None:
    assert licence(f"---\n{line}\n---\n\nlicense: gpl\n") == found
