"""Every shipped recipe loads, wires and explains itself."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from thinkery.cli.recipe import sampling_on
from thinkery.config import PRESETS
from thinkery.errors import ConfigError

SHIPPED = sorted(path.stem for path in PRESETS.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_and_wires(thinkery, name: str) -> None:
    code, out, err = thinkery("config", "validate", name, "--json")
    assert code == 0, err
    assert json.loads(out)["steps"]


def test_show_draws_the_graph_of_a_recipe_that_has_not_run(thinkery) -> None:
    code, out, _ = thinkery("show", "tiny")
    assert code == 0
    assert "● " in out
    (line,) = (line for line in out.splitlines() if " refine " in line and "←" in line and "eval" not in line)
    assert line.rstrip().endswith("← base, corpus")


def test_config_show_names_the_source_of_every_value(thinkery) -> None:
    code, out, _ = thinkery("config", "show", "tiny", "zero.grpo.clip_low=0.1", "--json")
    settings = json.loads(out)
    assert code == 0
    assert settings["zero.grpo.clip_low"] == {"value": 0.1, "source": "command line"}
    assert settings["zero.grpo.group_size"] == {"value": 16, "source": "default"}
    assert settings["zero.grpo.updates"]["source"].startswith("preset tiny:")


def test_explain_tells_the_documentation_of_a_setting(thinkery) -> None:
    code, out, _ = thinkery("config", "explain", "zero.grpo.group_size", "tiny")
    assert code == 0
    assert "Attempts at one question, G." in out


def test_diff_lists_what_two_recipes_set_differently(thinkery, tmp_path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "tiny"\n[zero.grpo]\nupdates = 7\n')
    code, out, _ = thinkery("config", "diff", "tiny", tmp_path / "mine.toml", "--json")
    assert code == 0
    assert list(json.loads(out)) == ["zero.grpo.updates"]


def test_a_stage_of_a_recipe_keeps_its_own_defaults_beside_what_is_set(thinkery) -> None:
    _, out, _ = thinkery("config", "show", "tiny", "--json")
    assert json.loads(out)["align.grpo.temperature"] == {"value": 0.7, "source": "default"}


def test_on_puts_every_engine_on_a_cluster_but_one_that_a_setting_keeps():
    words = Namespace(recipe="tiny", config=[], settings=['zero.engine.ray=""'])
    found = sampling_on(words, "ray://head:10001").record()
    ray = {key: found[key]["value"] for key in found if key.endswith("engine.ray")}
    assert ray.pop("zero.engine.ray") == ""
    assert len(ray) > 5
    assert set(ray.values()) == {"ray://head:10001"}


def test_on_puts_vllm_on_the_cluster_unless_its_servers_are_named():
    def zero(*settings: str):
        return sampling_on(Namespace(recipe="tiny", config=[], settings=list(settings)), "auto").config.zero

    started = zero('zero.vllm.python="/opt/vllm/bin/python"')
    assert (started.engine.ray, started.vllm.python) == ("auto", "/opt/vllm/bin/python")
    named = 'zero.vllm.url=["http://10.0.0.2:8000"]'
    with pytest.raises(ConfigError, match=r"zero.*vllm.url names servers that run already, but engine.ray \(--on\)"):
        zero(named)
    assert zero(named, 'zero.engine.ray=""').engine.ray == ""
