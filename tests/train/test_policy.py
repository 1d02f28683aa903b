from __future__ import annotations

import json
import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from thinkery.errors import ConfigError, EnvironmentLacks, InputError, NotFinite, RunFailed
from thinkery.model.transformer import Shape, Transformer, kept, recomputed
from thinkery.pipeline.artifact import Model
from thinkery.train.batch import Batch, Example, pack, pack_shared
from thinkery.train.optim import learning_rate
from thinkery.train.policy import Policy, PolicyConfig, logprobs_and_entropies, open_policy

EXAMPLES = [Example(list(range(3, 3 + n)), learn_from=max(1, n // 2)) for n in (9, 4, 17, 6)]


def imitation(policy, examples):
    learnt = sum(e.learnt for e in examples)

    def objective(batch: Batch):
        return -policy.forward(batch)[0].sum() / learnt, {"tokens": torch.tensor(len(batch.labels_C))}

    return objective


def train(policy, updates, total=10):
    for _ in range(updates):
        policy.update(lambda n: pack(EXAMPLES, n), imitation(policy, EXAMPLES), total=total)


def test_log_probabilities_are_those_of_the_plain_softmax_at_the_temperature(make_policy):
    policy = make_policy()
    scored = policy.logprobs(EXAMPLES, temperature=0.7)
    for example, found in zip(EXAMPLES, scored, strict=True):
        tokens = torch.tensor(example.tokens)
        with torch.no_grad():
            logits = policy.network.logits(policy.network.packed(tokens, [len(tokens)])) / 0.7
        plain = logits.log_softmax(-1)[:-1].gather(-1, tokens[1:, None])[example.learn_from - 1 :, 0]
        torch.testing.assert_close(torch.tensor(found), plain, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_log_probabilities_is_that_of_the_plain_softmax(monkeypatch):
    monkeypatch.setattr("thinkery.train.policy.IN_CACHE", 22)  # two of seven rows at a time
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 11, generator=draw, requires_grad=True)
    labels, slopes = torch.tensor([0, 10, 3, 3, 5, 7, 1]), torch.randn(7, generator=draw)
    found, entropies = logprobs_and_entropies(logits, labels, 0.7)
    plain = (logits / 0.7).log_softmax(-1)
    picked = plain.gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(found, picked)
    torch.testing.assert_close(entropies, -(plain.exp() * plain).sum(-1))
    torch.testing.assert_close(*(torch.autograd.grad(x, logits, slopes)[0] for x in (found, picked)))


def test_chunked_logits_give_the_loss_entropy_and_gradient_of_unchunked_ones(make_policy):
    gradients, entropies = [], []
    for chunk in (2**24, 257 * 3):
        policy = make_policy(logits_chunk=chunk)
        (batch,) = pack(EXAMPLES, 1000)
        logprobs, entropy = policy.forward(batch, 0.9)
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        gradients.append([p.grad for p in policy.network.parameters()])
        entropies.append(entropy)
        assert not entropy.requires_grad
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(entropies[0], entropies[1])


def test_recomputed_activations_give_the_same_gradients_bit_for_bit(make_policy):
    found = []
    for activations in ("kept", "recomputed"):
        policy = make_policy(activations=activations)
        (batch,) = pack(EXAMPLES, 1000)
        logprobs, _ = policy.forward(batch)
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        found.append([p.grad for p in policy.network.parameters()])
    assert all(torch.equal(kept, recomputed) for kept, recomputed in zip(*found, strict=True))


def test_with_recomputed_activations_another_layer_keeps_its_input_alone():
    def kept_bytes(layers, through):
        network = Transformer(Shape("llama", 16, 32, 64, layers, 4, 2, 8))
        network.through = through
        storages = {p.untyped_storage().data_ptr() for p in network.parameters()}
        sizes = {}

        def note(tensor):
            if tensor.untyped_storage().data_ptr() not in storages:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = network.packed(torch.arange(16), [16])
        assert hidden.requires_grad
        return sum(sizes.values())

    input_bytes = 16 * 32 * 4
    assert kept_bytes(6, recomputed) - kept_bytes(5, recomputed) == input_bytes
    assert kept_bytes(6, kept) - kept_bytes(5, kept) > 10 * input_bytes


def test_a_network_of_others_cannot_recompute_activations(make_policy):
    policy = make_policy()
    with pytest.raises(ConfigError, match=r"policy\.activations"):
        Policy(torch.nn.Linear(2, 2), policy.tokenizer, PolicyConfig(activations="recomputed"))


def test_an_update_does_not_depend_on_how_it_is_cut_into_micro_batches(make_policy):
    whole, cut = make_policy(micro_batch_tokens=1000), make_policy(micro_batch_tokens=10)
    first = whole.update(lambda n: pack(EXAMPLES, n), imitation(whole, EXAMPLES), total=1)
    second = cut.update(lambda n: pack(EXAMPLES, n), imitation(cut, EXAMPLES), total=1)
    assert first.sums == second.sums == {"tokens": 5 + 2 + 9 + 3}
    assert first.loss == pytest.approx(second.loss, abs=1e-6)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)


def test_a_restored_policy_continues_bit_for_bit(make_policy, tmp_path):
    steady = make_policy(lr=1e-2, schedule="cosine", warmup=2)
    steady.refresh_reference()
    train(steady, 3)
    steady.save(tmp_path)
    train(steady, 3)
    restored = make_policy(seed=9, lr=1e-2, schedule="cosine", warmup=2)
    restored.load(tmp_path)
    train(restored, 3)
    assert restored.updates == restored.version == 6
    for ours, theirs in zip(restored.network.parameters(), steady.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert restored.logprobs(EXAMPLES, reference=True) == steady.logprobs(EXAMPLES, reference=True)
    assert restored.logprobs(EXAMPLES, reference=True) == make_policy().logprobs(EXAMPLES)


def test_an_update_that_is_not_finite_is_skipped_and_too_many_end_the_run(make_policy):
    policy = make_policy(not_finite_in_a_row=2)
    before = [p.clone() for p in policy.network.parameters()]

    def broken(batch: Batch):
        return policy.forward(batch)[0].sum() * math.nan, {}

    update = policy.update(lambda n: pack(EXAMPLES, n), broken, total=10)
    assert update.skipped
    assert update.metrics["optim/skipped"] == 1.0
    assert (policy.updates, policy.version) == (1, 0)
    for now, then in zip(policy.network.parameters(), before, strict=True):
        assert torch.equal(now, then)
    train(policy, 1)
    assert policy.version == 1
    policy.update(lambda n: pack(EXAMPLES, n), broken, total=10)
    with pytest.raises(NotFinite, match=r"(?s)2 updates in a row.*policy\.lr"):
        policy.update(lambda n: pack(EXAMPLES, n), broken, total=10)


def test_running_out_of_memory_halves_the_micro_batch_and_repeats_the_update(make_policy):
    policy, roomy = make_policy(micro_batch_tokens=400), make_policy(micro_batch_tokens=400)
    examples = EXAMPLES * 10
    learn = imitation(policy, examples)

    def narrow(batch: Batch):
        if len(batch.tokens_T) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return learn(batch)

    update = policy.update(lambda n: pack(examples, n), narrow, total=1)
    expected = roomy.update(lambda n: pack(examples, n), imitation(roomy, examples), total=1)
    assert policy.micro_batch_tokens == 100
    assert update.loss == pytest.approx(expected.loss, abs=1e-6)
    assert update.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


def test_a_sequence_that_never_fits_says_which_settings_to_change(make_policy):
    policy = make_policy(micro_batch_tokens=100)

    def hopeless(batch: Batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    with pytest.raises(RunFailed, match="lower max_tokens"):
        policy.update(lambda n: pack(EXAMPLES, n), hopeless, total=1)


def test_other_runtime_errors_are_not_taken_for_memory(make_policy):
    policy = make_policy()

    def wrong(batch: Batch):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        policy.update(lambda n: pack(EXAMPLES, n), wrong, total=1)


def test_the_learning_rate_warms_up_and_ends_at_its_final_share():
    cfg = PolicyConfig(lr=1.0, warmup=4, schedule="cosine", final_lr_share=0.1)
    rates = [learning_rate(cfg, update, 10) for update in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(PolicyConfig(lr=2.0), 9, 10) == 2.0


def test_gradients_longer_than_the_clip_are_scaled_down(make_policy):
    policy = make_policy(grad_clip=1e-3, lr=1.0)
    learn = imitation(policy, EXAMPLES)
    policy.backward(pack(EXAMPLES, 1000), learn)
    torch.nn.utils.clip_grad_norm_(policy.network.parameters(), policy.cfg.grad_clip)
    squares = sum(float((p.grad**2).sum()) for p in policy.network.parameters() if p.grad is not None)
    assert math.sqrt(squares) == pytest.approx(1e-3, rel=1e-4)


def test_bfloat16_arithmetic_keeps_float32_weights_and_stays_near(make_policy):
    exact, rough = make_policy(), make_policy(dtype="bfloat16")
    near = zip(exact.logprobs(EXAMPLES), rough.logprobs(EXAMPLES), strict=True)
    assert all(abs(a - b) < 0.1 for xs, ys in near for a, b in zip(xs, ys, strict=True))
    train(rough, 1)
    assert {p.dtype for p in rough.network.parameters()} == {torch.float32}


def test_loading_from_an_empty_folder_says_so(make_policy, tmp_path):
    with pytest.raises(InputError, match="no training state"):
        make_policy().load(tmp_path)


def test_a_shared_prompt_gives_the_same_log_probabilities_and_gradients(make_policy):
    shared, alone = make_policy(), make_policy()
    attempts = [Example([5, 6, 7, *rest], learn_from=3) for rest in ([1, 2, 3], [4], [9, 8, 7, 6])]
    packs = (pack_shared(attempts, 100), pack(attempts, 100))
    for policy, batches in zip((shared, alone), packs, strict=True):
        policy.backward(batches, imitation(policy, attempts))
    for a, b in zip(shared.network.parameters(), alone.network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    each_alone = [alone.logprobs([attempt])[0] for attempt in attempts]
    for ours, theirs in zip(shared.logprobs(attempts), each_alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(run, folder):
    numbers = 10**11
    header = json.dumps({"weight": {"dtype": "U8", "shape": [numbers], "data_offsets": [0, numbers]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + numbers)  # a hole: nothing is stored
    with (
        pytest.raises(EnvironmentLacks, match=r"(?s)too little memory.*100B parameters need.*policy\.lora"),
        open_policy(run, Model(folder, {"folder": "."}), PolicyConfig()),
    ):
        pass


def test_a_gpu_has_more_logits_at_once_unless_told():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [PolicyConfig().logits_on(device) for device in (cpu, gpu)] == [2**24, 2**28]
    assert [PolicyConfig(logits_chunk=5).logits_on(device) for device in (cpu, gpu)] == [5, 5]
