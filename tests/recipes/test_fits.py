"""Too little memory to train is said before any work, and only where the step itself would say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from thinkery.cli.main import main
from thinkery.cli.recipe import open_recipe
from thinkery.errors import ConfigError, EnvironmentLacks
from thinkery.model.locate import locate
from thinkery.model.weights import read_headers
from thinkery.pipeline.memory import memory
from thinkery.pipeline.step import Step
from thinkery.recipes.arithmetic import parameters
from thinkery.recipes.fits import least_parameters, require_fitting
from thinkery.recipes.plan import fetched_shape

D, F, V = 1024, 4096, 1000
LAYER = 4 * D * D + 3 * D * F
"""Numbers of one layer."""


def folder(path: Path, layers: int, **more: object) -> Path:
    """The configuration of a model of so many layers, without weights."""
    config = {
        "model_type": "llama", "vocab_size": V, "hidden_size": D, "intermediate_size": F,
        "num_hidden_layers": layers, "num_attention_heads": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }  # fmt: skip
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config | more))
    return path


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A model of 16.8 trillion parameters."""
    return folder(tmp_path / "huge", 10**6)


def graph(name: str, *settings: str) -> dict[str, Step]:
    return open_recipe([name], settings, environ={}).graph()


def test_a_run_is_refused_before_its_first_step(huge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tiny", f"student.model={huge}", "--dir", str(tmp_path / "run")]
    assert main(words) == 5
    said = capsys.readouterr().err
    assert "step 'distill': too little memory to train this model" in said
    assert "1.68e+04B parameters need 268 TB" in said
    assert "policy.lora" in said
    assert not (tmp_path / "run").exists()
    assert main([*words, "--dry-run"]) == 0
    assert main([*words, "--write", "slurm"]) == 0
    assert main([*words, "--only", "exam"]) == 0  # trains nothing


def test_steps_that_fit_or_are_not_known_are_not_refused(huge: Path, tmp_path: Path) -> None:
    steps = graph("tiny", f"student.model={huge}")
    require_fitting(one for name, one in steps.items() if name != "distill")
    with pytest.raises(EnvironmentLacks, match="step 'distill'"):
        require_fitting(steps.values())
    require_fitting(graph("tiny", f"student.model={tmp_path / 'nothing'}").values())
    other = folder(tmp_path / "other", 10**6, model_type="gemma")
    require_fitting([graph("tiny", f"student.model={other}")["distill"]])


def test_a_model_without_products_in_8_bits_is_refused_before_the_first_step() -> None:
    require_fitting(graph("tiny", 'zero.engine.quantization="int8"').values())
    with pytest.raises(ConfigError, match="multiples of 64 inputs, this model's have 96"):
        require_fitting(graph("tiny", 'evaluate.engine.quantization="int8"').values())


def test_what_learns_is_on_this_machine_also_where_engines_are_on_a_ray_cluster(tmp_path: Path) -> None:
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else memory()[1]
    for name, share in (("large", 1.25), ("small", 0.75)):  # of the memory that is free, as weights and moments
        model = folder(tmp_path / name, int(share * free / 16 / LAYER))
        step = graph("tiny", f"base.model={model}", 'zero.engine.ray="ray://nobody:1"')["zero"]
        if name == "large":
            with pytest.raises(EnvironmentLacks, match="step 'zero': too little memory to train this model"):
                require_fitting([step])
        else:
            require_fitting([step])


def test_what_is_held_follows_the_settings_and_the_ranks(tmp_path: Path) -> None:
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else memory()[1]
    model = folder(tmp_path / "half", int(free / 8 / LAYER))  # 16 bytes a parameter are twice of what is free
    distill = f"student.model={model}"
    for fits in (["distill.sft.policy.lora={rank=2}"], ["distill.sft.policy.sharding=fsdp"]):
        require_fitting([graph("tiny", distill, *fits)["distill"]], ranks=16)  # 4 of adapters, 16 / 16 of parts
    parts = graph("tiny", distill, "distill.sft.policy.sharding=fsdp")["distill"]
    samples = graph("tiny", f"base.model={model}", "zero.grpo.policy.sharding=fsdp")["zero"]
    require_fitting([samples], ranks=16)  # 4 to sample from + 16 / 16
    whole = graph("tiny", distill)["distill"]
    for step, ranks in ((parts, 1), (samples, 2), (whole, 16)):  # 16, 4 + 8, 16
        with pytest.raises(EnvironmentLacks):
            require_fitting([step], ranks)


@pytest.mark.parametrize("step", ["zero", "distill", "helpful", "align"])
def test_a_shape_never_counts_more_than_the_step_will_find(step: str) -> None:
    stored = sum(t.numel() for t in read_headers(locate("tiny-student" if step == "distill" else "tiny")).values())
    assert 0.99 * stored < least_parameters(graph("tiny")[step]) <= stored


def test_a_reward_model_does_not_train_a_head_of_its_own(tmp_path: Path) -> None:
    untied = folder(tmp_path / "untied", 2, tie_word_embeddings=False)
    steps = graph("tiny", f"base.model={untied}")
    assert parameters(fetched_shape(str(untied))) == 2 * LAYER + 2 * V * D
    assert least_parameters(steps["refine"]) == 2 * LAYER + 2 * V * D
    assert least_parameters(steps["helpful"]) == 2 * LAYER + V * D
