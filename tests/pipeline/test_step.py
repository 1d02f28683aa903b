"""Wiring is checked before any work, and the key changes exactly when the result may."""

from __future__ import annotations

import pytest
from pydantic import Field

from thinkery.config import Config
from thinkery.errors import WiringError
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import counted_settings, ordered, step


class Inner(Config):
    """Nested settings."""

    lr: float = 0.1
    log_every: int = Field(default=10, json_schema_extra={"key": False})


class Outer(Config):
    """Settings of a stage."""

    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)


def fetch(run: Run) -> Model:
    """A model from nothing."""
    raise AssertionError("wiring must not run a stage")


def curate(run: Run, cfg: Outer, teacher: Model, judge: Model | None = None) -> Dataset:
    """A dataset from one or two models."""
    raise AssertionError("wiring must not run a stage")


def imitate(run: Run, cfg: Outer, base: Model, corpus: Dataset) -> Model:
    """A model from a model and a dataset."""
    raise AssertionError("wiring must not run a stage")


def compare(run: Run, **results: Model | Report) -> Report:
    """A report from any number of models and reports."""
    raise AssertionError("wiring must not run a stage")


def test_an_input_of_the_wrong_kind_is_refused_with_both_kinds_named():
    corpus = step("corpus", curate, Outer(), teacher=step("base", fetch))
    with pytest.raises(WiringError) as error:
        step("refine", imitate, Outer(), base=corpus, corpus=corpus)
    assert str(error.value) == "step 'refine': input 'base' must be a Model, but step 'corpus' makes a Dataset"


def test_a_missing_input_says_what_it_must_be():
    with pytest.raises(WiringError) as error:
        step("refine", imitate, Outer(), base=step("base", fetch))
    assert str(error.value) == "step 'refine': input 'corpus' is missing; it must be a Dataset"


def test_a_setting_that_came_later_leaves_the_keys_of_older_runs_until_it_is_set():
    class Later(Inner):
        """Its settings now."""

        ahead: int = Field(default=0, json_schema_extra={"key": "when set"})

    assert counted_settings(Later()) == counted_settings(Inner()) == {"lr": 0.1}
    assert counted_settings(Later(ahead=2)) == {"lr": 0.1, "ahead": 2}


def test_none_is_allowed_only_where_the_annotation_says_so():
    base = step("base", fetch)
    assert step("corpus", curate, Outer(), teacher=base, judge=None).inputs == {"teacher": base}
    with pytest.raises(WiringError, match="input 'teacher' is missing"):
        step("corpus", curate, Outer(), teacher=None)


def test_an_unknown_input_is_refused_with_a_suggestion():
    with pytest.raises(WiringError, match="curate has no input 'techer'\n  try: did you mean 'teacher'"):
        step("corpus", curate, Outer(), techer=step("base", fetch))


def test_settings_of_another_class_are_refused():
    with pytest.raises(WiringError, match=r"step 'corpus': the settings must be an Outer \(found an Inner\)"):
        step("corpus", curate, Inner(), teacher=step("base", fetch))
    with pytest.raises(WiringError, match="fetch takes no settings"):
        step("base", fetch, Inner())


def test_any_number_of_inputs_may_be_declared_and_each_is_checked():
    base = step("base", fetch)
    assert list(step("report", compare, None, zero=base, **{"cold-start": base}).inputs) == ["zero", "cold-start"]
    corpus = step("corpus", curate, Outer(), teacher=base)
    with pytest.raises(
        WiringError, match="input 'data' must be a Model or a Report, but step 'corpus' makes a Dataset"
    ):
        step("report", compare, data=corpus)


def test_a_stage_that_does_not_say_what_it_makes_is_refused():
    def nameless(run: Run):
        """Makes who knows what."""

    with pytest.raises(WiringError, match="nameless must say what it makes"):
        step("x", nameless)  # type: ignore[arg-type]


def test_a_name_that_is_no_folder_name_is_refused():
    with pytest.raises(WiringError, match="lower-case"):
        step("../x", fetch)


def test_two_steps_of_one_name_are_refused():
    first, second = step("base", fetch), step("base", fetch)
    with pytest.raises(WiringError, match="step 'base': two different steps have this name"):
        ordered({"report": step("report", compare, a=first, b=second)})


def test_a_cycle_is_refused_with_its_path():
    base = step("base", compare)
    report = step("report", compare, base=base)
    base.inputs["back"] = report
    with pytest.raises(WiringError, match="reads its own result: report ← base ← report"):
        ordered({"report": report})


def test_inputs_come_first_and_otherwise_the_listed_order_stays():
    base, student = step("base", fetch), step("student", fetch)
    corpus = step("corpus", curate, Outer(), teacher=base)
    small = step("small", imitate, Outer(), base=student, corpus=corpus)
    final = step("final", compare, a=base)
    assert [s.name for s in ordered({"final": final, "small": small})] == [
        "base",
        "final",
        "student",
        "corpus",
        "small",
    ]


def test_the_key_follows_settings_inputs_and_version_but_not_names_or_uncounted_fields():
    base = step("base", fetch)
    key = step("a", curate, Outer(), teacher=base).key
    assert key == step("b", curate, Outer(), teacher=base).key
    assert key == step("a", curate, Outer(inner=Inner(log_every=99)), teacher=base).key
    assert key != step("a", curate, Outer(inner=Inner(lr=0.2)), teacher=base).key
    assert key != step("a", curate, Outer(), teacher=base, judge=base).key
    assert key != step("a", curate, Outer(), teacher=step("other", compare_model)).key
    curate.version = 2
    assert key != step("a", curate, Outer(), teacher=base).key
    del curate.version


def compare_model(run: Run) -> Model:
    """Another function makes another key."""
    raise AssertionError("wiring must not run a stage")
