"""The built-in engine: what it samples, what it stops at, and what it does not depend on."""

import time
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from thinkery.core import Message, Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine, sampled_network
from thinkery.engine.native.engine import NativeEngine
from thinkery.engine.native.runner import format_of
from thinkery.engine.native.sampler import uniforms
from thinkery.engine.plain import RecomputingRunner
from thinkery.errors import ConfigError, InputError, NotFinite, RunFailed
from thinkery.model.adapter import Adapted
from thinkery.model.hf import save_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def requests(count: int, samples: int = 4, tokens: int = 24, **sampling) -> list[Request]:
    """Prompts of many lengths, every sample with its own seed."""
    return [
        Request(
            tuple(1000 * i + s for s in range(samples)),
            Sampling(max_tokens=tokens - i % 5, **sampling),
            prompt=tuple((7 * i + j * j) % 250 for j in range(1 + (i * 5) % 23)),
        )
        for i in range(count)
    ]


def answers(engine, wanted) -> dict:
    """Request number → completions."""
    return {i: [event.completion for event in events] for i, events in generate(engine, wanted)}


def log_softmax(network, prompt, completion, temperature=1.0) -> torch.Tensor:
    """What the trainer's packed path gives for a completion's positions, in fp32."""
    tokens = torch.tensor([*prompt, *completion.tokens])
    logits = network.logits(network.packed(tokens, [len(tokens)])).float() / temperature
    return logits.log_softmax(-1)[len(prompt) - 1 : -1]


def logprobs(network, prompt, completion, temperature=1.0) -> torch.Tensor:
    index = torch.tensor(completion.tokens)[:, None]
    return log_softmax(network, prompt, completion, temperature).gather(1, index)[:, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.6)])
@torch.no_grad()
def test_the_engine_the_trainer_and_transformers_agree_on_log_probabilities(
    network, tokenizer, tmp_path, dtype, tolerance
):
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    save_model(tmp_path, network, tokenizer)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    wanted = requests(9, temperature=0.8)
    with open_engine(network, tokenizer, EngineConfig(max_batch=16)) as engine:
        found = answers(engine, wanted)
    for i, completions in found.items():
        for completion in completions:
            prompt, mine = wanted[i].prompt, torch.tensor(completion.logprobs)
            assert torch.allclose(mine, logprobs(network, prompt, completion, 0.8), atol=tolerance)
            theirs = reference(torch.tensor([[*prompt, *completion.tokens]])).logits[0].float() / 0.8
            theirs = theirs.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(completion.tokens)[:, None])
            assert torch.allclose(mine, theirs[:, 0], atol=tolerance)


def test_in_deterministic_mode_no_bit_of_a_sample_depends_on_its_neighbours(network, tokenizer):
    cfg = EngineConfig(max_batch=16, max_len=48, deterministic=True)
    wanted = requests(12)
    with open_engine(network, tokenizer, cfg) as engine:
        alone = [answers(engine, [request])[0] for request in wanted]
        together = answers(engine, wanted)
        backwards = answers(engine, wanted[::-1])
        assert all(together[i] == alone[i] == backwards[11 - i] for i in range(12))
        single = wanted[3]
        lone = Request(single.seeds[2:3], single.sampling, prompt=single.prompt)
        assert answers(engine, [*wanted[:3], lone])[3] == [alone[3][2]]


def test_in_deterministic_mode_late_arrivals_and_leavers_change_no_bit(network, tokenizer):
    cfg = EngineConfig(max_batch=8, max_len=48, deterministic=True)
    wanted = requests(6, samples=3)
    with open_engine(network, tokenizer, cfg) as engine:
        alone = [answers(engine, [request])[0] for request in wanted]
        ids = {engine.submit(wanted[0]): 0}
        dropped = engine.submit(wanted[5])
        for _ in range(4):
            engine.step()
        engine.cancel(dropped)
        ids |= {engine.submit(wanted[i]): i for i in range(1, 5)}
        found = defaultdict(dict)
        while len(ids) * 3 > sum(map(len, found.values())):
            for event in engine.step():
                if event.completion and event.request in ids:
                    found[ids[event.request]][event.sample] = event.completion
    assert all([found[i][s] for s in range(3)] == alone[i] for i in range(5))


def test_otherwise_samples_part_only_where_the_draw_lies_on_a_border(network, tokenizer):
    wanted = requests(12, tokens=40)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        together = answers(engine, wanted)
        alone = [answers(engine, [request])[0] for request in wanted]
    for i, request in enumerate(wanted):
        for seed, a, b in zip(request.seeds, alone[i], together[i], strict=True):
            if a.tokens != b.tokens:
                where = next(k for k, pair in enumerate(zip(a.tokens, b.tokens, strict=False)) if pair[0] != pair[1])
                cdf = log_softmax(network, request.prompt, a)[where].exp().cumsum(-1)
                assert (cdf - uniforms([seed], [where])[0]).abs().min() < 1e-3


def test_every_token_is_the_one_its_seed_draws_from_the_trainers_distribution(network, tokenizer):
    [request] = requests(1)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        completions = answers(engine, [request])[0]
    for seed, completion in zip(request.seeds, completions, strict=True):
        cdf = log_softmax(network, request.prompt, completion).double().exp().cumsum(-1)
        draws = torch.from_numpy(uniforms([seed] * len(cdf), range(len(cdf))))[:, None]
        assert torch.searchsorted(cdf, draws)[:, 0].tolist() == list(completion.tokens)


@pytest.fixture
def seen(network, monkeypatch) -> list[int]:
    """How many tokens went through the network in every pass."""
    passes, rotations = [], network.rotations

    def counting(positions, dtype):
        passes.append(len(positions))
        return rotations(positions, dtype)

    monkeypatch.setattr(network, "rotations", counting)
    return passes


def test_a_group_computes_its_prompt_once_even_when_it_is_admitted_bit_by_bit(network, tokenizer, seen):
    request = Request(tuple(range(10)), Sampling(max_tokens=4), prompt=tuple(range(100)))
    with open_engine(network, tokenizer, EngineConfig(max_batch=3)) as engine:
        completions = answers(engine, [request])[0]
    assert len(completions) == 10
    assert seen.count(100) == 1
    assert max(n for n in seen if n != 100) <= 3


def test_a_tight_cache_makes_samples_wait_and_changes_none(network, tokenizer):
    wanted = requests(10)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        expected = answers(engine, wanted)
    tight = 120 * 2 * 2 * 2 * 8 * 4 / 2**30  # 120 tokens of 2 layers, 2 heads of 8, keys and values, 4 bytes
    with open_engine(network, tokenizer, EngineConfig(kv_memory=tight)) as engine:
        ids = [engine.submit(request) for request in wanted]
        found, most = defaultdict(dict), 0
        while sum(map(len, found.values())) < 40:
            for event in engine.step():
                if event.completion:
                    found[ids.index(event.request)][event.sample] = event.completion
            most = max(most, engine.runner.prompts.tokens + engine.runner.own.tokens)
    assert most <= 120
    for i in range(10):
        assert [found[i][s].tokens for s in range(4)] == [c.tokens for c in expected[i]]
        for s in range(4):
            assert torch.allclose(
                torch.tensor(found[i][s].logprobs), logprobs(network, wanted[i].prompt, found[i][s]), atol=1e-4
            )


def test_samples_that_outgrow_the_cache_wait_their_turn_and_go_on_as_if_they_had_not(network, tokenizer):
    request = Request(tuple(range(3)), Sampling(max_tokens=100), prompt=tuple(range(10)), mask=lambda _: range(250))
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        expected = answers(engine, [request])[0]
        assert engine.scheduler.admissions == 3
    tokens = 210  # 10 + 3 x 64 fit, 10 + 3 x 96 do not
    with open_engine(network, tokenizer, EngineConfig(kv_memory=tokens * 256 / 2**30)) as engine:
        completions = answers(engine, [request])[0]
        assert engine.scheduler.admissions == 4
        assert engine.runner.prompts.tokens + engine.runner.own.tokens <= tokens
    assert [c.tokens for c in completions] == [c.tokens for c in expected]
    for completion in completions:
        assert len(completion.tokens) == 100
        assert torch.allclose(
            torch.tensor(completion.logprobs), logprobs(network, request.prompt, completion), atol=1e-4
        )


@torch.no_grad()
def test_groups_of_any_size_share_their_prompts_and_each_sees_its_own(network, tokenizer):
    wanted = [
        Request(tuple(range(100 * i, 100 * i + size)), Sampling(max_tokens=6), prompt=tuple(range(i, i + 3 + 9 * i)))
        for i, size in enumerate((1, 40, 3, 17))
    ]
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        for request in wanted:
            engine.submit(request)
        engine.step()
        assert [share.sharers for share in engine.scheduler.shares] == [1, 16, 16, 8, 3, 16, 1]
        found = {}
        while len(found) < 61:
            found |= {(e.request, e.sample): (e.prompt, e.completion) for e in engine.step() if e.completion}
    for prompt, completion in found.values():
        assert torch.allclose(torch.tensor(completion.logprobs), logprobs(network, prompt, completion), atol=1e-4)


def test_prompts_that_exceed_a_steps_tokens_begin_one_after_the_other(network, tokenizer):
    """Of 40, 40 (two samples), 30 and 100 tokens, at 80 a step: 40 + 40, then 30, then 100, which alone is too many."""
    prompts = [Request((1,) * n, Sampling(max_tokens=9), prompt=tuple(range(i, i + length)))
               for i, (length, n) in enumerate([(40, 1), (40, 2), (30, 1), (100, 1)])]  # fmt: skip
    with open_engine(network, tokenizer, EngineConfig(prefill=80)) as engine:
        ids = [engine.submit(request) for request in prompts]
        begun = [sorted({ids.index(event.request) for event in engine.step()}) for _ in range(3)]
        assert begun == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def asked(prompt, salt="") -> Request:
    return Request((1, 2), Sampling(max_tokens=3), prompt=tuple(prompt), salt=salt)


def test_the_known_beginning_of_a_prompt_is_not_computed_again(network, tokenizer, seen):
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        answers(engine, [asked(range(100))])
        answers(engine, [asked([*range(90), *range(20)])])
        answers(engine, [asked(range(64))])
    assert [n for n in seen if n > 2] == [100, 110 - 64, 64]


SAME = [Request((i,), Sampling(max_tokens=3), prompt=(*range(64), *range(i, i + 36))) for i in range(3)]
"""Three prompts of 100 tokens, of which the first 64 are the same."""


def steps_of(engine, requests: list[Request]) -> list[list[int]]:
    """Which requests had a token, in each of three steps."""
    ids = [engine.submit(request) for request in requests]
    return [sorted(ids.index(event.request) for event in engine.step()) for _ in range(3)]


def test_a_beginning_that_many_bring_at_once_is_computed_for_the_first_of_them(network, tokenizer, seen):
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        assert steps_of(engine, SAME) == [[0], [0, 1, 2], [0, 1, 2]]
    assert [n for n in seen if n > 3] == [100, 36 + 36]


def test_who_may_not_know_a_beginning_does_not_wait_for_it(network, tokenizer, seen):
    others = [replace(request, salt=str(i)) for i, request in enumerate(SAME)]
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        assert steps_of(engine, others) == [[0, 1, 2]] * 3
    assert [n for n in seen if n > 3] == [300]


def test_a_beginning_for_which_there_is_no_memory_is_waited_for_once(network, tokenizer, seen):
    full = EngineConfig(max_batch=8, kv_memory=8 * 128 * 256 / 2**30)  # rows take all of it
    with open_engine(network, tokenizer, full) as engine:
        assert steps_of(engine, SAME) == [[0], [0, 1, 2], [0, 1, 2]]
    assert [n for n in seen if n > 3] == [100, 100 + 100]


@torch.no_grad()
def test_known_beginnings_change_nothing_but_the_time(network, tokenizer):
    wanted = [asked([*range(70 + 9 * i), *range(5 + i)]) for i in range(4)]
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        answers(engine, [asked(range(128 - 9))])
        found = answers(engine, wanted)
    for i, completions in found.items():
        for completion in completions:
            expected = logprobs(network, wanted[i].prompt, completion)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("followed", "computed"), [(True, 26), (False, 90)])
def test_an_answer_that_a_later_prompt_repeats_is_not_computed_again(network, tokenizer, seen, followed, computed):
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        first = replace(asked(range(40)), seeds=(1,), sampling=Sampling(max_tokens=40), followed=followed)
        ((answer,),) = answers(engine, [first]).values()
        assert len(answer.tokens) == 40
        again = replace(asked([*range(40), *answer.tokens[:30], *range(20)]), seeds=(5,))
        ((completion,),) = answers(engine, [again]).values()
    assert [n for n in seen if n > 2] == [40, computed]  # 79 tokens were fed: one block
    assert torch.allclose(torch.tensor(completion.logprobs), logprobs(network, again.prompt, completion), atol=1e-4)


def test_owners_with_different_salts_share_no_beginnings(network, tokenizer, seen):
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        for salt in ("", "a", "b", "a"):
            answers(engine, [asked(range(100), salt)])
    assert [n for n in seen if n > 2] == [100, 100, 100, 36]


def test_new_weights_make_known_beginnings_unknown(network, tokenizer, seen):
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        answers(engine, [asked(range(100))])
        engine.bump(1)
        answers(engine, [asked(range(100))])
    assert [n for n in seen if n > 2] == [100, 100]


def test_beginnings_are_forgotten_when_samples_need_the_memory(network, tokenizer, seen):
    tokens = 240
    with open_engine(network, tokenizer, EngineConfig(kv_memory=tokens * 256 / 2**30)) as engine:
        for _ in range(2):
            answers(engine, [asked(range(100))])
            assert engine.runner.blocks.tokens == 64
            answers(engine, [Request(tuple(range(10)), Sampling(max_tokens=20), prompt=(1,))])
            assert engine.runner.blocks.tokens == 0
    assert [n for n in seen if n > 10] == [100, 100]


def test_recomputing_everything_gives_the_same_samples(network, tokenizer):
    wanted = requests(5)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        expected = answers(engine, wanted)
    plain = NativeEngine(
        network, network, RecomputingRunner(network, 16), tokenizer, max_batch=16, prefill=8192, max_len=128
    )
    found = answers(plain, wanted)
    assert {i: [c.tokens for c in cs] for i, cs in found.items()} == {
        i: [c.tokens for c in cs] for i, cs in expected.items()
    }


@torch.no_grad()
def test_a_network_of_another_architecture_is_sampled_too(tokenizer):
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=272, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    )
    network = Adapted(gpt2)
    wanted = requests(3, tokens=8)
    for cfg in (EngineConfig(), EngineConfig(deterministic=True, max_batch=8)):
        with open_engine(network, tokenizer, cfg) as engine:
            found = answers(engine, wanted)
            alone = answers(engine, wanted[:1])
        for i, completions in found.items():
            for completion in completions:
                assert torch.allclose(
                    torch.tensor(completion.logprobs), logprobs(network, wanted[i].prompt, completion), atol=1e-4
                )
    assert alone[0] == found[0]


def spelled(*tokens: int):
    """A mask that leaves no choice but these tokens, one after another."""
    return lambda generated: [tokens[len(generated)]] if len(generated) < len(tokens) else None


def said(network, tokenizer, *tokens: int, max_tokens: int = 8, **sampling):
    request = Request((1,), Sampling(max_tokens=max_tokens, **sampling), prompt=(5, 6), mask=spelled(*tokens))
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        return answers(engine, [request])[0][0]


def ids(tokenizer, *pieces: str) -> list[int]:
    return [token for piece in pieces for token in tokenizer.encode(piece)]


def test_the_end_of_sequence_stops_and_stays_among_the_tokens(network, tokenizer):
    completion = said(network, tokenizer, *ids(tokenizer, "a", "b", "<eos>"))
    assert (completion.text, completion.finish) == ("ab", "stop")
    assert completion.tokens[-1] == tokenizer.eos_id
    assert len(completion.tokens) == len(completion.logprobs) == 3


def test_length_stops(network, tokenizer):
    completion = said(network, tokenizer, *ids(tokenizer, "abcd"), max_tokens=3)
    assert (completion.text, completion.finish) == ("abc", "length")


def test_a_stop_string_over_token_borders_ends_the_text_before_it(network, tokenizer):
    pieces = ids(tokenizer, "4", "2", "</", "answer", ">", "x")
    completion = said(network, tokenizer, *pieces, stop=("never", "</answer>"))
    assert (completion.text, completion.finish) == ("42", "stop")
    assert list(completion.tokens) == pieces[:-1]


def test_a_stop_string_inside_a_token_cuts_the_rest_of_the_token(network, tokenizer):
    completion = said(network, tokenizer, *ids(tokenizer, "a", "stop"), stop=("to",))
    assert (completion.text, completion.answer) == ("as", "as")


def test_a_stop_string_of_characters_split_over_tokens_is_seen(network, tokenizer):
    pieces = ids(tokenizer, "好。")
    assert len(pieces) == 6
    completion = said(network, tokenizer, *pieces, stop=("。",))
    assert (completion.text, completion.finish, len(completion.tokens)) == ("好", "stop", 6)


def test_messages_are_rendered_with_the_template_and_a_thought_is_known_to_be_open(network, tokenizer):
    thinking = tokenizer.with_template("{{ messages[-1].content }}\n<think>\n")
    script = ids(tokenizer, *"hm</think>9")
    request = Request((1,), Sampling(max_tokens=11), messages=(Message("user", "Q"),), mask=spelled(*script))
    with open_engine(network, thinking, EngineConfig()) as engine:
        [(_, [event])] = generate(engine, [request])
        direct = Request((1,), request.sampling, prompt=event.prompt, mask=request.mask)
        again = answers(engine, [direct])[0][0]
    assert tokenizer.decode(event.prompt) == "Q\n<think>"
    assert (event.completion.thought, event.completion.answer, event.completion.closed) == ("hm", "9", True)
    assert again == event.completion


def test_each_step_tells_the_new_token_of_every_sample(network, tokenizer):
    [request] = requests(1, samples=2, tokens=6)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        engine.submit(request)
        told, final = defaultdict(list), {}
        while len(final) < 2:
            for event in engine.step():
                told[event.sample] += event.tokens
                if event.completion:
                    final[event.sample] = event.completion
    assert all(tuple(told[s]) == final[s].tokens for s in (0, 1))


def test_deadlines_end_what_runs_and_what_waits(network, tokenizer):
    request = Request((1, 2, 3), Sampling(max_tokens=100), prompt=(1,), deadline_s=0.2, mask=lambda _: [65])
    with open_engine(network, tokenizer, EngineConfig(max_batch=2)) as engine:
        engine.submit(request)
        first = engine.step()
        time.sleep(0.25)
        ended = {event.sample: event.completion for event in engine.step()}
        assert engine.step() == []
    assert [event.sample for event in first] == [0, 1]
    assert [ended[s].finish for s in range(3)] == ["deadline"] * 3
    assert [len(ended[s].tokens) for s in range(3)] == [1, 1, 0]


def test_cancelled_samples_end_in_the_next_step_and_others_go_on(network, tokenizer):
    keep, drop = requests(2, samples=2, tokens=10)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        expected = answers(engine, [keep])[0]
        dropped, kept = engine.submit(drop), engine.submit(keep)
        engine.step()
        engine.cancel(dropped)
        events = engine.step()
        assert [e.completion.finish for e in events if e.request == dropped] == ["cancelled"] * 2
        found = {}
        while len(found) < 2:
            found |= {e.sample: e.completion for e in engine.step() if e.request == kept and e.completion}
    assert [found[s].tokens for s in (0, 1)] == [c.tokens for c in expected]


def test_after_a_bump_the_engine_samples_from_the_changed_tensors(network, tokenizer):
    [request] = requests(1)
    with open_engine(network, tokenizer, EngineConfig(), version=3) as engine:
        before = answers(engine, [request])[0]
        with torch.no_grad():
            network.model["layers"][0].mlp.down_proj.weight.mul_(-1.0)
        engine.bump(4)
        after = answers(engine, [request])[0]
    assert {c.version for c in before} == {3}
    assert {c.version for c in after} == {4}
    assert [c.tokens for c in before] != [c.tokens for c in after]
    with torch.no_grad():
        for completion in after:
            expected = logprobs(network, request.prompt, completion)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)


@torch.no_grad()
def test_samples_in_flight_at_a_bump_go_on_under_the_new_weights(network, tokenizer):
    request = Request((1, 2, 3), Sampling(max_tokens=9), prompt=(1, 2, 3), mask=lambda _: range(200))
    with open_engine(network, tokenizer, EngineConfig(max_batch=2)) as engine:
        engine.submit(request)
        for _ in range(4):
            engine.step()
        network.model["layers"][1].mlp.down_proj.weight.mul_(-2.0)
        engine.bump(1)
        found = {}
        while len(found) < 3:
            found |= {e.sample: e.completion for e in engine.step() if e.completion}
    for sample, since, version in ((0, 4, 0), (1, 4, 0), (2, 0, 1)):
        completion, expected = found[sample], logprobs(network, request.prompt, found[sample])
        assert completion.version == version
        assert torch.allclose(torch.tensor(completion.logprobs[since:]), expected[since:], atol=1e-4)


def test_a_copy_in_another_format_follows_the_learner_at_a_bump(network, tokenizer):
    [request] = requests(1)
    with open_engine(network, tokenizer, EngineConfig(dtype="bfloat16")) as engine:
        assert format_of(engine.network)[0] == torch.bfloat16
        with torch.no_grad():
            network.lm_head.weight.mul_(0.0)
        engine.bump(1)
        assert answers(engine, [request])[0][0].logprobs[0] == pytest.approx(-torch.tensor(272.0).log().item(), 1e-2)
    assert network.lm_head.weight.dtype == torch.float32


def test_loaded_weights_are_sampled_from(network, tokenizer):
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        engine.load_weights(weights, 7)
        completion = answers(engine, requests(1))[0][0]
    assert completion.version == 7
    assert completion.logprobs[0] == pytest.approx(-torch.tensor(272.0).log().item(), 1e-5)


def test_an_engine_that_was_not_told_of_new_weights_refuses_to_sample(network, tokenizer):
    with open_engine(network, tokenizer, EngineConfig(), version=3) as engine:
        with torch.no_grad():
            network.lm_head.weight.mul_(2.0)
        with pytest.raises(RunFailed, match="not those of version 3"):
            engine.submit(asked(range(5)))
        engine.bump(4)
        assert answers(engine, [asked(range(5))])[0][0].version == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_rest_an_engine_holds_no_copy_and_no_cache_until_the_weights_have_changed(network, tokenizer, dtype):
    with open_engine(network, tokenizer, EngineConfig(dtype=dtype)) as engine:
        before = answers(engine, requests(2))
        engine.rest()
        assert (engine.runner.own.tokens, engine.runner.prompts.tokens, engine.runner.blocks.tokens) == (0, 0, 0)
        assert not getattr(engine.network, "layers", None)
        with pytest.raises(RunFailed, match="not those of version 0"):
            engine.submit(requests(1)[0])
        engine.bump(1)
        again = answers(engine, requests(2))
        assert [[c.tokens for c in again[i]] for i in range(2)] == [[c.tokens for c in before[i]] for i in range(2)]


def test_an_engine_with_samples_in_flight_does_not_rest(network, tokenizer):
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        engine.submit(requests(1, tokens=5)[0])
        engine.step()
        engine.rest()
        assert len([event for _ in range(8) for event in engine.step() if event.completion]) == 4


def test_broken_weights_raise_instead_of_sampling_nonsense(network, tokenizer):
    with torch.no_grad():
        network.lm_head.weight.fill_(float("nan"))
    with open_engine(network, tokenizer, EngineConfig()) as engine, pytest.raises(NotFinite, match="NaN"):
        answers(engine, requests(1))


def test_what_cannot_fit_is_refused_at_submission(network, tokenizer):
    with open_engine(network, tokenizer, EngineConfig(max_len=10)) as engine:
        with pytest.raises(InputError, match="no room"):
            engine.submit(Request((1,), prompt=tuple(range(10))))
        with pytest.raises(InputError, match="no room"):
            engine.submit(Request((1,), prompt=()))
        completion = answers(engine, [Request((1,), prompt=tuple(range(6)), mask=lambda _: [65])])[0][0]
        assert (len(completion.tokens), completion.finish) == (4, "length")
    tiny = EngineConfig(kv_memory=1e-6)
    with (
        open_engine(network, tokenizer, tiny) as engine,
        pytest.raises(InputError, match="does not fit into the cache"),
    ):
        engine.submit(Request((1,), prompt=(1,)))
    with pytest.raises(InputError, match="seed"):
        Request((), prompt=(1,))


def test_a_deterministic_engine_refuses_what_it_cannot_promise(network, tokenizer):
    with (
        pytest.raises(ConfigError, match="GiB"),
        open_engine(network, tokenizer, EngineConfig(deterministic=True, kv_memory=1e-4)),
    ):
        pass
    network.bfloat16()
    with pytest.raises(ConfigError, match="float32"), open_engine(network, tokenizer, EngineConfig(deterministic=True)):
        pass


class Made(TorchDispatchMode):
    """Notes the number formats in which tensors of more than one dimension are made."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dim() > 1 and not func.is_view:
            self.formats.add(found.dtype)
        return found


def test_a_copy_in_another_format_is_made_in_that_format_alone(network):
    """Ties, and what does not learn, stay; rotary frequencies are not rounded."""
    network.model["norm"].weight.requires_grad_(False)
    with Made() as made:
        copied = sampled_network(network, EngineConfig(dtype="bfloat16", deterministic=True))  # which packs nothing
    assert made.formats <= {torch.bfloat16}
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert copied.lm_head.weight is copied.model["embed_tokens"].weight
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in network.parameters()]
    assert torch.equal(copied.frequencies, network.frequencies)
    for ours, theirs in zip(copied.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(torch.bfloat16))
