"""Recipes as TOML: precedence, sources of values, and what a wrong file says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from thinkery import config
from thinkery.config import Config, load
from thinkery.core import Sampling
from thinkery.errors import ConfigError, InputError


class Inner(Config):
    steps: int = 10
    """How many updates to make."""
    lr: float | Literal["auto"] = 1e-6
    """Step size of the optimizer."""


class Task(Config):
    source: str
    limit: int | None = None


class Outer(Config):
    """A recipe of two stages."""

    zero: Inner = Inner()
    align: Inner = Inner(steps=5)
    tasks: tuple[Task, ...] = (Task(source="world"),)
    weights: dict[str, float] = {}
    sampling: Sampling = Sampling(temperature=0.7)
    maybe: Inner | None = None
    seed: int = 0


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_sources_win_and_every_value_knows_its_own(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'recipe = "r1"\nseed = 1\n[zero]\nsteps = 20\nlr = 1e-5\n')
    first = write(tmp_path / "first.toml", 'extends = "base.toml"\n\n[zero]\nsteps = 30\n')
    second = write(tmp_path / "second.toml", "[align]\nsteps = 7\n")
    loaded = load(Outer, [first, second], ["zero.steps=50"], {"THINKERY_SET_seed": "9", "HOME": "/root"})
    assert loaded.config.zero == Inner(steps=50, lr=1e-5)
    assert loaded.config.align.steps == 7
    assert loaded.config.seed == 9
    assert loaded.header == {"recipe": "r1", "extends": "base.toml"}
    sources = {key: r.source for key, r in config.resolved(loaded).items()}
    assert sources["zero.steps"] == "command line"
    assert sources["zero.lr"] == f"{tmp_path}/base.toml:5"
    assert sources["align.steps"] == f"{second}:2"
    assert sources["align.lr"] == "default"
    assert sources["seed"] == "THINKERY_SET_seed"


def test_nested_environment_keys_are_joined_by_two_underscores() -> None:
    assert load(Outer, environ={"THINKERY_SET_zero__steps": "3"}).config.zero.steps == 3


def test_values_are_toml_and_bare_words_are_strings() -> None:
    loaded = load(Outer, overrides=["zero.lr=1e-6", "align.lr=auto", 'tasks=[{source="gsm8k", limit=5}]'])
    assert loaded.config.zero.lr == 1e-6
    assert loaded.config.align.lr == "auto"
    assert loaded.config.tasks == (Task(source="gsm8k", limit=5),)


def test_an_entry_of_a_list_is_set_by_its_number(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", '[[tasks]]\nsource = "world"\n\n[[tasks]]\nsource = "gsm8k"\nlimit = 9\n')
    loaded = load(Outer, [file], ["tasks.1.limit=4"])
    assert loaded.config.tasks == (Task(source="world"), Task(source="gsm8k", limit=4))
    sources = {key: r.source for key, r in config.resolved(loaded).items()}
    assert sources["tasks.1.limit"] == "command line"
    assert sources["tasks.1.source"] == f"{file}:5"
    with pytest.raises(ConfigError, match=r"tasks\.2\.limit: the list has 2 entries"):
        load(Outer, [file], ["tasks.2.limit=4"])


def test_a_list_replaces_the_list_below_it_and_tables_merge(tmp_path: Path) -> None:
    low = write(tmp_path / "low.toml", 'tasks = [{source = "a"}, {source = "b"}]\n[weights]\nformat = 1\n')
    high = write(tmp_path / "high.toml", 'tasks = [{source = "c"}]\n[weights]\naccuracy = 2\n')
    loaded = load(Outer, [low, high])
    assert [t.source for t in loaded.config.tasks] == ["c"]
    assert loaded.config.weights == {"format": 1.0, "accuracy": 2.0}


def test_an_empty_table_changes_nothing_and_makes_one_where_there_is_none(tmp_path: Path) -> None:
    low = write(tmp_path / "low.toml", "[align]\nlr = 0.5\n")
    high = write(tmp_path / "high.toml", 'extends = "low.toml"\n[align]\n# lr = 0.1\n')
    for loaded in (load(Outer, [high]), load(Outer, [low], ["align={}"])):
        assert loaded.config.align.lr == 0.5
        assert config.resolved(loaded)["align.lr"].source == f"{low}:2"
    assert load(Outer).config.maybe is None
    assert load(Outer, overrides=["maybe={}"]).config.maybe == Inner()
    assert load(Outer, environ={"THINKERY_SET_maybe": "{}"}).config.maybe == Inner()


def test_a_table_keeps_the_defaults_of_the_field_that_it_sets() -> None:
    assert load(Outer, overrides=["align.lr=0.5"]).config.align == Inner(steps=5, lr=0.5)
    assert load(Outer, overrides=["sampling.max_tokens=3"]).config.sampling == Sampling(temperature=0.7, max_tokens=3)
    with pytest.raises(ConfigError, match=r"sampling\.max_token: no such setting \(did you mean 'max_tokens'"):
        load(Outer, overrides=["sampling.max_token=3"])
    assert config.explain(load(Outer), "sampling.max_tokens")[0].type == "int"


def test_all_problems_are_listed_at_once_with_place_key_and_nearest_name(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.toml", '[zero]\nstepz = 3\nlr = "fast"\n\n[[tasks]]\nsauce = "world"\n')
    with pytest.raises(ConfigError) as caught:
        load(Outer, [file], ["align.steps=many", "sed=1"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 problems"
    text = "\n".join(lines)
    assert f"{file}:2: zero.stepz: no such setting (did you mean 'steps'?)" in text
    assert f"{file}:3: zero.lr: should be" in text
    assert f"{file}:6: tasks.0.sauce: no such setting (did you mean 'source'?)" in text
    assert f"{file}:5: tasks.0.source: must be set" in text
    assert "command line: align.steps: should be a valid integer" in text
    assert "(found 'many')" in text
    assert "command line: sed: no such setting (did you mean 'seed'?)" in text


def test_a_setting_in_the_wrong_table_names_its_full_key() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'zero\.steps'"):
        load(Outer, overrides=["steps=4"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("zero.steps", "write key=value"),
        ("=3", "not a dotted key"),
        ("tasks=[1", "not a TOML value"),
        ("extends=tiny", "chosen by the file"),
    ],
)
def test_an_override_that_cannot_be_read_says_how_to_write_it(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Outer, overrides=[override])


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "broken.toml", "seed = 1\nzero = = 2\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: .*line 2"):
        load(Outer, [file])


def test_extends_may_not_go_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", 'extends = "b.toml"\n')
    write(tmp_path / "b.toml", 'extends = "a.toml"\n')
    with pytest.raises(ConfigError, match="circle"):
        load(Outer, [tmp_path / "a.toml"])


def test_a_missing_recipe_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe"):
        load(Outer, [tmp_path / "missing.toml"])


def test_explain_gives_type_default_documentation_and_source() -> None:
    (one,) = config.explain(load(Outer, overrides=["align.steps=8"]), "align.steps")
    assert (one.type, one.default, one.doc) == ("int", "5", "How many updates to make.")
    assert (one.value, one.source) == (8, "command line")
    assert [e.key for e in config.explain(load(Outer), "zero")] == ["zero.steps", "zero.lr"]
    assert config.explain(load(Outer), "align.steps")[0].default == "5"
    assert config.explain(load(Outer), "zero.lr")[0].type == "float | 'auto'"
    with pytest.raises(ConfigError, match=r"did you mean 'zero\.steps'"):
        config.explain(load(Outer), "zero.step")


def test_diff_lists_only_the_settings_that_differ() -> None:
    assert config.diff(load(Outer), load(Outer, overrides=["zero.steps=11"])) == {"zero.steps": (10, 11)}


def test_the_schema_documents_every_field_and_allows_the_header() -> None:
    described = config.schema(Outer)
    assert described["$defs"]["Inner"]["properties"]["steps"]["description"] == "How many updates to make."
    assert {"recipe", "extends", "seed"} <= set(described["properties"])
