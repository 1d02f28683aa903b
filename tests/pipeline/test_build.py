"""Done is skipped, changed runs again with what depends on it, and changed bytes are found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from thinkery import __version__
from thinkery.config import Config
from thinkery.errors import EnvironmentLacks, HashMismatch, RunFailed, UsageError
from thinkery.pipeline import files, home
from thinkery.pipeline.artifact import Artifact, Dataset, Model, Report
from thinkery.pipeline.branch import branch
from thinkery.pipeline.build import build, plan
from thinkery.pipeline.files import read_json, write_json
from thinkery.pipeline.read import graph, open_run
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import Step, step


class Number(Config):
    """One number."""

    value: int = 1


class Climb(Config):
    """Count up from the base's number by `stride`, failing at `fail_at`; an alarm rings above `alarming`."""

    steps: int = 6
    stride: int = 1
    fail_at: int = 0
    alarming: int = 10**9


def constant(run: Run, cfg: Number) -> Model:
    """A model that is a number."""
    return run.save_model(lambda folder: (folder / "n").write_text(str(cfg.value)))


def spread(run: Run, cfg: Number, base: Model) -> Dataset:
    """A dataset of `value` rows around the model's number."""
    writer = run.dataset()
    for i in range(cfg.value):
        writer.add({"n": number_of(base) + i}, key=str(i))
    return writer.finish()


def climb(run: Run, cfg: Climb, base: Model, rows: Dataset | None = None) -> Model:
    """A model that counted; checkpoints every second step."""
    first, n = 0, number_of(base)
    if latest := run.latest():
        first, n = latest[0], int((latest[1] / "n").read_text())
    for number in range(first + 1, cfg.steps + 1):
        if number == cfg.fail_at:
            raise RunFailed("it broke")
        n += cfg.stride
        run.metrics(number, {"n": n})
        if number % 2 == 0:
            ringing = ["high"] if n > cfg.alarming else []
            run.checkpoint(number, lambda folder, n=n: (folder / "n").write_text(str(n)), ringing)
    return run.save_model(lambda folder: (folder / "n").write_text(str(n)))


def summary(run: Run, **models: Model) -> Report:
    """A report of the models' numbers."""
    return run.save_report({name: number_of(model) for name, model in models.items()})


def number_of(model: Model) -> int:
    """The number in a model."""
    return int((model.folder / "n").read_text())


def draw(base: int = 10, rows: int = 3, tune: Climb = Climb()) -> dict[str, Step]:  # noqa: B008 (Config is frozen)
    """base ─► rows ─► tuned ─► report, and an aside that depends on nothing."""
    start = step("base", constant, Number(value=base))
    aside = step("aside", constant, Number(value=99))
    data = step("rows", spread, Number(value=rows), base=start)
    tuned = step("tuned", climb, tune, base=start, rows=data)
    report = step("report", summary, tuned=tuned, aside=aside)
    return {s.name: s for s in (start, aside, data, tuned, report)}


def ran(steps: dict[str, Step], dir: Path, **options) -> list[str]:
    """The steps that a build really ran."""
    events = []
    build(steps, dir, on_event=events.append, **options)
    return [e["step"] for e in events if e["kind"] == "end"]


def actions(steps: dict[str, Step], dir: Path, **options) -> dict[str, tuple[str, str]]:
    """What a dry run says."""
    return {p.step.name: (p.action, p.why) for p in plan(steps, dir, **options)}


def test_a_build_makes_every_artifact_and_a_second_one_makes_nothing(tmp_path):
    made = build(draw(), tmp_path)
    assert isinstance(made["report"], Report)
    assert made["report"].data == {"tuned": 16, "aside": 99}
    assert isinstance(made["rows"], Dataset)
    assert [row["n"] for row in made["rows"].rows()] == [10, 11, 12]
    assert len(made["rows"]) == 3
    assert ran(draw(), tmp_path) == []


def test_a_changed_setting_runs_only_what_depends_on_it(tmp_path):
    build(draw(), tmp_path)
    assert ran(draw(rows=4), tmp_path) == ["rows", "tuned", "report"]
    assert ran(draw(rows=4, tune=Climb(stride=2)), tmp_path) == ["tuned", "report"]
    assert ran(draw(), tmp_path) == [], "what was made with the old settings is still there"


def test_a_dry_run_says_what_would_run_and_why_and_touches_nothing(tmp_path):
    run = tmp_path / "run"
    assert actions(draw(), run)["base"] == ("run", "new")
    assert not run.exists()
    build(draw(), run)
    assert actions(draw(tune=Climb(stride=2)), run) == {
        "base": ("done", ""),
        "aside": ("done", ""),
        "rows": ("done", ""),
        "tuned": ("run", "changed: stride 1 → 2"),
        "report": ("run", "changed: input tuned"),
    }


def test_steps_can_be_selected_by_name_and_by_range(tmp_path):
    assert ran(draw(), tmp_path, until="rows") == ["base", "aside", "rows"]
    with pytest.raises(UsageError, match="step 'report': input 'tuned' is step 'tuned', which is neither done nor"):
        build(draw(), tmp_path, only=["report"])
    assert ran(draw(), tmp_path, only=["tuned"]) == ["tuned"]
    assert ran(draw(), tmp_path, start="rows") == ["report"]
    with pytest.raises(UsageError, match="no step 'tund'\n  try: did you mean 'tuned'"):
        build(draw(), tmp_path, until="tund")
    with pytest.raises(UsageError, match="step 'report' comes after step 'rows'"):
        build(draw(), tmp_path, start="report", until="rows")


def test_fresh_makes_the_selected_again_and_keeps_what_there_was(tmp_path):
    build(draw(), tmp_path)
    assert ran(draw(), tmp_path, only=["tuned"], fresh=True) == ["tuned"]
    assert len(list(tmp_path.glob("attempts/2/tuned-*/artifact.json"))) == 1
    assert ran(draw(), tmp_path) == [], "made again with the same content, so nothing downstream is stale"


def test_a_step_that_has_read_other_content_under_the_same_key_runs_again(tmp_path):
    build(draw(), tmp_path)
    manifest = next(tmp_path.glob("steps/tuned-*/artifact.json"))
    written = read_json(manifest)
    written["inputs"]["rows"]["content"] = "0" * 64
    write_json(manifest, written)
    assert actions(draw(), tmp_path)["tuned"] == ("run", "changed content: rows")
    assert ran(draw(), tmp_path) == ["tuned"]


def test_a_failed_step_continues_from_its_checkpoint(tmp_path):
    with pytest.raises(RunFailed, match="it broke"):
        build({"t": step("t", climb, Climb(fail_at=4), base=step("base", constant, Number()))}, tmp_path)
    record = open_run(tmp_path)
    assert record.attempts[0]["outcome"] == "RunFailed"
    assert record.steps["t"].status == "stopped"
    assert [row["n"] for row in record.metrics("t")] == [2, 3, 4]


@pytest.mark.parametrize("pattern", ["base-*/model/n", "rows-*/data/*.gz", "tuned-*/metrics.jsonl"])
def test_a_flipped_byte_is_found_before_any_work_and_named(tmp_path, pattern):
    build(draw(), tmp_path)
    path = next(tmp_path.glob(f"steps/{pattern}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HashMismatch) as error:
        build(draw(), tmp_path)
    assert str(path) in str(error.value)
    assert error.value.exit_code == 4


def test_a_missing_file_is_found_and_named(tmp_path):
    build(draw(), tmp_path)
    path = next(tmp_path.glob("steps/base-*/model/n"))
    path.unlink()
    with pytest.raises(HashMismatch, match=r"base-.*/model/n: the file is missing"):
        build(draw(), tmp_path)


def test_the_manifest_tells_where_an_artifact_came_from(tmp_path):
    made = build(draw(), tmp_path, seed=5, recipe={"base": 10})
    tuned = made["tuned"].manifest
    assert tuned["inputs"]["rows"] == {
        "name": "rows",
        "key": made["rows"].key,
        "content": made["rows"].manifest["content"],
    }
    assert tuned["config"] == {"steps": 6, "stride": 1, "fail_at": 0, "alarming": 10**9}
    assert tuned["seed"] == 5
    assert tuned["versions"]["thinkery"]
    assert tuned["run"] == open_run(tmp_path).id
    assert open_run(tmp_path).recipe == {"base": 10}
    lines = open_run(tmp_path).lineage("tuned").text().splitlines()
    assert [line.split("  key")[0] for line in lines] == ["tuned", "  base: base", "  rows: rows", "    base: base"]


def test_the_content_hash_does_not_depend_on_when_or_where(tmp_path):
    one, two = build(draw(), tmp_path / "one"), build(draw(), tmp_path / "two")
    assert {n: a.manifest["content"] for n, a in one.items()} == {n: a.manifest["content"] for n, a in two.items()}


def test_code_of_another_version_is_warned_about_and_kept(tmp_path):
    build(draw(), tmp_path, only=["base"])
    manifest = next(tmp_path.glob("steps/base-*/artifact.json"))
    written = read_json(manifest)
    written["versions"]["thinkery"], written["commit"] = "0.0.1", ""
    write_json(manifest, written)
    events = []
    build(draw(), tmp_path, only=["base"], on_event=events.append)
    warned = [e for e in events if e["kind"] == "changed-code"]
    assert [e["step"] for e in warned] == ["base"]
    assert "made by thinkery 0.0.1" in warned[0]["message"]


def test_a_stage_that_breaks_its_promise_fails(tmp_path):
    def liar(run: Run) -> Model:
        """Promises a model, returns a report."""
        return run.save_report({})  # type: ignore[return-value]

    with pytest.raises(RunFailed, match="liar promised a Model and returned Report"):
        build({"x": step("x", liar)}, tmp_path)


def test_a_run_keeps_its_id_and_its_seed_for_life(tmp_path):
    build(draw(), tmp_path, seed=1)
    id = open_run(tmp_path).id
    build(draw(rows=5), tmp_path, seed=1)
    assert open_run(tmp_path).id == id
    assert len(open_run(tmp_path).attempts) == 2
    with pytest.raises(UsageError, match="a run keeps its seed for life"):
        build(draw(), tmp_path, seed=2)


def test_a_model_elsewhere_is_pointed_to_and_watched(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    def point(run: Run) -> Model:
        """A model that stays where it is."""
        return run.reference_model(folder)

    steps = {"base": step("base", point)}
    made = build(steps, tmp_path / "run")["base"]
    assert made.folder == folder
    (folder / "config.json").write_text("[]")
    with pytest.raises(HashMismatch, match=r"hub/config\.json"):
        build(steps, tmp_path / "run")


class Begin(Config):
    """Which model to begin with."""

    model: str = "Some/Base-7B"


def begun(place: Path) -> dict[str, Step]:
    """A graph from a model of the hub, whose files are in `place`, to one that learnt from rows of two sources."""
    snapshot = place / "models--Some--Base-7B" / "snapshots" / "1f0c"
    snapshot.mkdir(parents=True)
    (snapshot / "n").write_text("4")
    (snapshot / "README.md").write_text("---\ntags:\n- text\nlicense: apache-2.0\n---\n\n# Base\n\nlicense: nonsense\n")

    def fetched(run: Run, cfg: Begin) -> Model:
        """The hub's model."""
        return run.reference_model(snapshot)

    def drawn(run: Run) -> Dataset:
        """Rows of two sources."""
        writer = run.dataset()
        for n, source in enumerate(("gsm8k", "math")):
            writer.count("kept", source=source)
            writer.add({"n": n}, key=str(n))
        return writer.finish()

    base, rows = step("base", fetched, Begin()), step("rows", drawn)
    first = step("first", climb, Climb(), base=base, rows=rows)
    return {"base": base, "rows": rows, "first": first, "last": step("last", climb, Climb(), base=first)}


def test_the_card_of_a_model_says_what_it_came_from_and_is_the_same_wherever_it_is_made(tmp_path):
    made = build(begun(tmp_path / "hub"), tmp_path / "run", seed=7)
    card = (made["last"].folder / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        "base_model: Some/Base-7B\nlicense: apache-2.0\n---\n\n# last\n\n## Where it comes from\n"
    )
    short = {name: one.manifest["content"][:12] for name, one in made.items()}
    assert card.splitlines()[-4:] == [
        "|---|---|---|---|",
        f"| base | Model: Some/Base-7B |  | `{short['base']}` |",
        f"| rows | Dataset, 2 rows: gsm8k, math |  | `{short['rows']}` |",
        f"| first | Model | base, rows | `{short['first']}` |",
    ]
    assert f"- key: `{made['last'].key}`" in card
    assert "- seed: 7" in card
    assert f"- made with: Thinkery {__version__}" in card
    again = build(begun(tmp_path / "elsewhere" / "hub"), tmp_path / "elsewhere" / "run", seed=7)
    assert again["last"].manifest["content"] == made["last"].manifest["content"]
    assert str(tmp_path) not in card


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """As somebody who may not write to `folder`."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_directory_that_may_not_be_written_is_a_clear_error(tmp_path):
    with without_rights(tmp_path), pytest.raises(EnvironmentLacks, match="no permission to write") as error:
        build(draw(), tmp_path / "run")
    assert error.value.exit_code == 5


def test_a_branch_links_what_is_done_and_runs_only_what_changed(tmp_path):
    build(draw(), tmp_path / "old")
    branch(tmp_path / "old", "rows", tmp_path / "new")
    assert ran(draw(tune=Climb(stride=2)), tmp_path / "new") == ["tuned", "report"]
    old, new = (next((tmp_path / run).glob("steps/base-*/model/n")) for run in ("old", "new"))
    assert old.stat().st_ino == new.stat().st_ino
    assert open_run(tmp_path / "new").run["branched_from"] == {"run": open_run(tmp_path / "old").id, "step": "rows"}


def test_a_branch_of_a_step_in_progress_continues_its_checkpoint_with_other_settings(tmp_path):
    with pytest.raises(RunFailed):
        build(draw(tune=Climb(fail_at=4)), tmp_path / "old")
    branch(tmp_path / "old", "tuned", tmp_path / "new")
    steps = draw(tune=Climb(stride=100))
    assert actions(steps, tmp_path / "new")["tuned"] == ("resume", "")
    made = build(steps, tmp_path / "new")
    assert isinstance(made["tuned"], Model)
    assert number_of(made["tuned"]) == 10 + 2 * 1 + 4 * 100
    assert [row["n"] for row in open_run(tmp_path / "new").metrics("tuned")] == [11, 12, 112, 212, 312, 412]
    came_from = made["tuned"].manifest["branched_from"]
    assert (came_from["at"], came_from["config"]["stride"]) == (2, 1)
    assert open_run(tmp_path / "old").steps["tuned"].status == "stopped", "the source is as it was"


@pytest.mark.parametrize(("which", "at"), [("good", 2), ("8", 8), ("", 10)])
def test_a_branch_goes_back_to_the_checkpoint_before_alarms_rang_or_to_one_that_is_named(tmp_path, which, at):
    with pytest.raises(RunFailed):
        build(draw(tune=Climb(steps=12, alarming=13, fail_at=11)), tmp_path / "old")
    branch(tmp_path / "old", "tuned", tmp_path / "new", which)
    assert (
        number_of(build(draw(tune=Climb(steps=12, stride=100)), tmp_path / "new")["tuned"]) == 10 + at + (12 - at) * 100
    )
    run = open_run(tmp_path / "new")
    assert [row["n"] for row in run.metrics("tuned")][:at] == [*range(11, 11 + at)]
    assert run.run["branched_from"].get("checkpoint", "") == which


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(RunFailed):
        build(draw(tune=Climb(steps=12, alarming=13, fail_at=11)), tmp_path / "old")
    with pytest.raises(UsageError, match="no such checkpoint") as error:
        branch(tmp_path / "old", "tuned", tmp_path / "new", "4")
    assert error.value.hint == "there are: 2 (good), 8, 10"
    assert not (tmp_path / "new").exists()


def test_a_branch_does_not_write_into_an_existing_run(tmp_path):
    build(draw(), tmp_path)
    with pytest.raises(UsageError, match="there is a run already"):
        branch(tmp_path, "rows", tmp_path)


def test_the_graph_is_drawn_with_a_lane_per_artifact(tmp_path):
    build(draw(), tmp_path, until="rows")
    steps = open_run(tmp_path).steps
    drawing = graph(steps.values(), {name: one.status for name, one in steps.items()})
    assert drawing.splitlines() == [
        "●          base    Model                    done",
        "│ ●        aside   Model                    done",
        "├─│─●      rows    Dataset  ← base          done",
        "└─│─┴─●    tuned   Model    ← base, rows    waiting",
        "  └───┴─●  report  Report   ← tuned, aside  waiting",
    ]
    assert graph(draw().values()) == "\n".join(line.rsplit("  ", 1)[0].rstrip() for line in drawing.splitlines())


def test_every_artifact_is_found_again_without_a_graph(tmp_path):
    build(draw(), tmp_path)
    kinds = {name: type(a) for name, a in open_run(tmp_path).artifacts.items()}
    assert kinds == {"base": Model, "aside": Model, "rows": Dataset, "tuned": Model, "report": Report}
    assert all(issubclass(kind, Artifact) for kind in kinds.values())


def test_a_branch_that_is_killed_while_it_links_is_made_by_the_same_call(tmp_path, monkeypatch):
    build(draw(), tmp_path / "old")
    linked, at = files._link_file, 0

    def dying(source, target):
        nonlocal at
        at += 1
        if at == 5:
            raise SystemExit
        linked(source, target)

    monkeypatch.setattr(files, "_link_file", dying)
    with pytest.raises(SystemExit):
        branch(tmp_path / "old", "report", tmp_path / "new")
    monkeypatch.undo()
    branch(tmp_path / "old", "report", tmp_path / "new")
    build(draw(), tmp_path / "new")
    for artifact in open_run(tmp_path / "new").artifacts.values():
        artifact.verify()


def test_where_a_branch_came_from_is_known_though_it_is_killed_when_it_begins(tmp_path, monkeypatch):
    with pytest.raises(RunFailed):
        build(draw(tune=Climb(fail_at=4)), tmp_path / "old")
    branch(tmp_path / "old", "tuned", tmp_path / "new")
    write = home.write_json

    def dying(path, value):
        if path.name == home.ABOUT and path.parent.name.startswith("tuned"):
            raise SystemExit
        write(path, value)

    monkeypatch.setattr(home, "write_json", dying)
    with pytest.raises(SystemExit):
        build(draw(), tmp_path / "new")
    monkeypatch.undo()
    assert build(draw(), tmp_path / "new")["tuned"].manifest["branched_from"]["at"] == 2


def test_a_branch_keeps_the_seed_of_its_source_until_it_begins_with_another(tmp_path):
    build(draw(), tmp_path / "old", seed=7)
    for seed in (7, 8):
        branch(tmp_path / "old", "rows", tmp_path / f"new-{seed}")
        assert open_run(tmp_path / f"new-{seed}").run["seed"] == 7
        build(draw(), tmp_path / f"new-{seed}", seed=seed)
        assert open_run(tmp_path / f"new-{seed}").run["seed"] == seed
        with pytest.raises(UsageError, match="keeps its seed for life"):
            build(draw(), tmp_path / f"new-{seed}", seed=9)


def test_what_a_manifest_names_is_on_the_disk_before_it(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    made = build(draw(), tmp_path / "run")
    partial = next(path.parent for path in synced if path.name.startswith(".artifact.json") and "tuned" in str(path))
    sealed = synced.index(partial / ".artifact.json.tmp")
    assert {partial / name for name in made["tuned"].manifest["record"]} <= set(synced[:sealed])
