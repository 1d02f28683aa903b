"""Decoding in recorded steps: on a CPU the step itself is the recording; what it says is what the plain runner says."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine, place_of, records_graphs, unrecorded
from thinkery.engine.native.engine import NativeEngine
from thinkery.engine.native.graphs import WARM_UP, GraphRunner, padded, recorded_step
from thinkery.model.transformer import Transformer

TOKEN_BYTES = 256
"""Keys and values of one token in float32: 2 layers, 2 heads of 8."""


def requests(count: int) -> list[Request]:
    """Groups and single samples of many lengths; some answers are followed up."""
    return [
        Request(
            tuple(100 * i + s for s in range(1 + i % 3)),
            Sampling(max_tokens=20 - i),
            prompt=tuple((7 * i + j * j) % 250 for j in range(1 + 9 * i)),
            followed=i % 2 == 0,
        )
        for i in range(count)
    ]


def recording(network, tokenizer, max_rows: int = 8, memory: int = 2000) -> NativeEngine:
    runner = GraphRunner(network, max_rows, 128, memory * TOKEN_BYTES)
    return NativeEngine(network, network, runner, tokenizer, max_batch=max_rows, prefill=40, max_len=128)


def completions(engine, wanted) -> list:
    events = dict(generate(engine, wanted))
    return [event.completion for i in range(len(wanted)) for event in events[i]]


def same(found, expected) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens
        torch.testing.assert_close(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-5, rtol=0)


def test_recorded_steps_sample_what_the_plain_runner_samples(network, tokenizer):
    """18 samples over 8 rows join and leave; twice, so that beginnings and answers are known the second time."""
    wanted = requests(9)
    with open_engine(network, tokenizer, EngineConfig(max_batch=8)) as engine:
        expected = completions(engine, wanted)
    engine = recording(network, tokenizer)
    same(completions(engine, wanted), expected)
    assert engine.runner.blocks.tokens > 0
    same(completions(engine, wanted), expected)
    assert {rows for rows, _ in engine.runner.graphs} <= {1, 2, 4, 8}


def test_rows_and_lengths_are_padded_to_the_next_power_of_two():
    assert [padded(n, 1, 24) for n in (1, 2, 3, 4, 5, 9, 17, 24)] == [1, 2, 4, 4, 8, 16, 24, 24]
    assert [padded(n, 256, 1000) for n in (1, 256, 257, 513, 1000)] == [256, 256, 512, 1000, 1000]


def test_what_a_step_reads_stays_where_it_is_and_holds_every_row(network, tokenizer):
    """Three rows are padded to four; the idle one is token 0 at position 0."""
    engine = recording(network, tokenizer)
    addresses = [x.data_ptr() for x in (engine.runner.tokens_B, engine.runner.positions_B, *engine.runner.own.keys)]
    prompts = [(1, 2, 3), (4,), (5, 6)]
    for i, prompt in enumerate(prompts):
        engine.submit(Request((i,), Sampling(max_tokens=9), prompt=prompt, mask=lambda _: range(1, 250)))
    engine.step()
    fed = [row.tokens[-1] for row in engine.scheduler.rows]
    engine.step()
    assert engine.runner.tokens_B.tolist() == [*fed, 0, 0, 0, 0, 0]
    assert engine.runner.positions_B.tolist() == [3, 1, 2, 0, 0, 0, 0, 0]
    assert list(engine.runner.graphs) == [(4, 128)]
    completions(engine, requests(6))
    now = [x.data_ptr() for x in (engine.runner.tokens_B, engine.runner.positions_B, *engine.runner.own.keys)]
    assert now == addresses


def test_a_recorded_step_follows_weights_that_change_in_place(network, tokenizer):
    engine = recording(network, tokenizer)
    before = completions(engine, requests(3))
    steps = dict(engine.runner.graphs)
    with torch.no_grad():
        network.model["layers"][0].mlp.down_proj.weight.mul_(-1.0)
    engine.bump(1)
    after = completions(engine, requests(3))
    assert all(engine.runner.graphs[size] is step for size, step in steps.items())
    assert [one.tokens for one in before] != [one.tokens for one in after]
    with open_engine(network, tokenizer, EngineConfig()) as plain:
        same(after, completions(plain, requests(3)))


def test_graphs_are_recorded_on_cuda_devices_where_every_row_has_its_room(network):
    """Eight rows of 128 tokens of 256 bytes are exactly what there is."""
    cfg = EngineConfig(max_batch=8, kv_memory=8 * 128 * TOKEN_BYTES / 2**30)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert place_of(network) == (cpu, TOKEN_BYTES)
    assert records_graphs(gpu, TOKEN_BYTES, cfg, 128)
    assert not records_graphs(gpu, TOKEN_BYTES, cfg, 129)
    assert not records_graphs(cpu, TOKEN_BYTES, cfg, 128)
    assert not records_graphs(gpu, TOKEN_BYTES, EngineConfig(max_batch=8, graphs="off"), 128)


def test_where_a_cuda_device_records_nothing_the_settings_to_change_are_named():
    """384 rows of 8192 tokens of 23,040 bytes are 67.5 GiB."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    found = unrecorded(gpu, 23_040, EngineConfig(), 8192)
    assert "384 rows of 8192 tokens need 67.5 GiB, engine.kv_memory is 4." in found
    assert unrecorded(gpu, 23_040, EngineConfig(kv_memory=67.5), 8192) == ""
    assert unrecorded(gpu, 23_040, EngineConfig(graphs="off"), 8192) == ""
    assert unrecorded(cpu, 23_040, EngineConfig(), 8192) == ""


def test_steps_are_recorded_beside_threads_that_allocate_and_into_one_pool(monkeypatch):
    """With torch's CUDA functions stood in for: they note what they are asked for, and run the step."""
    asked, ran = [], []

    def graph(recording, **settings):
        asked.append(settings)
        return nullcontext(recording)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in (
        ("Stream", lambda device: stream),
        ("current_stream", lambda device: stream),
        ("stream", nullcontext),
        ("CUDAGraph", lambda: SimpleNamespace(replay=lambda: ran.append("replayed"))),
        ("graph", graph),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    again = recorded_step(lambda: ran.append("run"), torch.device("cuda"), (0, 1))
    assert asked == [{"pool": (0, 1), "capture_error_mode": "thread_local"}]
    assert ran == ["run"] * (WARM_UP + 1)
    again()
    assert ran[-1] == "replayed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_recorded_steps_sample_what_unrecorded_ones_do(shape, tokenizer):
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(1), std=0.3)
    network.requires_grad_(False).to("cuda")
    found = []
    for graphs in ("fitting", "off"):
        with open_engine(network, tokenizer, EngineConfig(max_batch=8, graphs=graphs)) as engine:
            assert isinstance(engine.runner, GraphRunner) == (graphs == "fitting")
            first = completions(engine, requests(9))
            with torch.no_grad():
                network.model["layers"][0].mlp.down_proj.weight.mul_(-1.0)
            engine.bump(1)
            found.append((first, completions(engine, requests(9))))
            with torch.no_grad():
                network.model["layers"][0].mlp.down_proj.weight.mul_(-1.0)
    for ours, theirs in zip(*found, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.tokens == other.tokens
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)
