"""vLLM as an engine: weights that do not arrive end the run; with vLLM at hand, samples are the learner's.

THINKERY_VLLM=/opt/vllm/bin/python pytest -m slow tests/engine/test_vllm.py    # where it is not in the usual place
HF_HUB_OFFLINE=1 /opt/vllm/bin/python -m pytest -m slow tests/engine/test_vllm.py      # vLLM in this process
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests.vllms import vllm_python

from thinkery.core import Message, Sampling
from thinkery.engine import EngineConfig, NativeEngine, Request, generate, open_engine
from thinkery.engine.vllm import Sampled, VllmConfig, VllmEngine, open_vllm, weights_of, write_untied
from thinkery.engine.vllm_local import settings_of
from thinkery.errors import EnvironmentLacks, InputError, RunFailed
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.tasks.world import ZERO_TEMPLATE
from thinkery.train.batch import Example
from thinkery.train.policy import Policy, PolicyConfig

FLOAT = VllmConfig(dtype="float32", max_len=256, max_batch=16, kv_memory=0.25, tolerance=1e-3)


class Copy:
    """A process that samples from a copy of the weights, as vLLM does; `takes` whether reloading takes them."""

    def __init__(self, folder: Path, takes: bool = True) -> None:
        self.network, self.tokenizer = load_model(folder)
        self.engine: NativeEngine
        self.takes, self.version, self.ids = takes, "default", {}

    def add(self, id: str, prompt: tuple[int, ...], seed: int, sampling: Sampling, stops: list[int]) -> None:
        self.ids[self.engine.submit(Request((seed,), sampling, prompt=prompt))] = id

    def poll(self) -> list[Sampled]:
        ended = [event for event in self.engine.step() if event.completion]
        said = [(self.ids.pop(e.request), e.completion) for e in ended if e.request in self.ids]
        return [Sampled(id, c.tokens, c.logprobs, c.finish, self.version) for id, c in said if c]

    def abort(self, id: str) -> None:
        self.ids = {ours: theirs for ours, theirs in self.ids.items() if theirs != id}

    def reload(self, folder: Path, version: int) -> str:
        if self.takes:
            (folder / "config.json").write_text((folder.parent / "config.json").read_text())
            self.tokenizer.save(folder)
            self.engine.load_weights(load_model(folder)[0].state_dict(), version)
        self.version = str(version)
        return self.version

    def score(self, tokens: list[int]) -> list[float]:
        policy = Policy(self.network, self.tokenizer, PolicyConfig())
        return policy.logprobs([Example(tokens, learn_from=1)])[0]

    def close(self) -> None: ...


@contextmanager
def copied(network, tokenizer, folder: Path, takes: bool = True) -> Iterator[VllmEngine]:
    write_untied(folder, network, tokenizer, FLOAT)
    copy = Copy(folder, takes)
    with open_engine(copy.network, copy.tokenizer, EngineConfig()) as copy.engine:
        yield VllmEngine(network, tokenizer, FLOAT, copy, folder, 0)


@pytest.fixture
def tiny():
    """The embedded base model, which ties its head."""
    network, tokenizer = load_model(locate("tiny"))
    return network, tokenizer.with_template(ZERO_TEMPLATE)


def moved(network) -> None:
    """Another version of the weights."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)


def ask(engine: VllmEngine, samples: int = 3, max_tokens: int = 12):
    request = Request(tuple(range(samples)), Sampling(max_tokens=max_tokens), (Message("user", "What is 3 + 4?"),))
    [(_, events)] = generate(engine, [request])
    return events


def agree_with_the_trainer(network, tokenizer, events, tolerance: float) -> None:
    """The log-probabilities of what was sampled are those that training computes."""
    policy = Policy(network, tokenizer, PolicyConfig())
    examples = [Example([*e.prompt, *e.completion.tokens], learn_from=len(e.prompt)) for e in events]
    for event, expected in zip(events, policy.logprobs(examples), strict=True):
        torch.testing.assert_close(
            torch.tensor(event.completion.logprobs), torch.tensor(expected), atol=tolerance, rtol=0
        )


def follows_the_weights(engine: VllmEngine, network, tokenizer) -> None:
    for version in (1, 2):
        events = ask(engine)
        assert {event.completion.version for event in events} == {version - 1}
        agree_with_the_trainer(network, tokenizer, events, 1e-3)
        moved(network)
        engine.bump(version)
    assert len({event.completion.tokens for event in ask(engine, 8)}) > 1


def goes_on_under_other_weights(engine: VllmEngine, network, tokenizer) -> None:
    """Samples that were cut are continued by the next version, and keep what the first had sampled."""
    first = [event.completion for event in ask(engine, 8, max_tokens=4)]
    cut = [n for n, one in enumerate(first) if one.finish == "length"]
    assert cut
    moved(network)
    engine.bump(engine.version + 1)
    seeds, begun = tuple(cut), tuple(first[n] for n in cut)
    request = Request(seeds, Sampling(max_tokens=9), (Message("user", "What is 3 + 4?"),), begun=begun)
    [(_, events)] = generate(engine, [request])
    agreed = Policy(network, tokenizer, PolicyConfig())
    for old, event in zip(begun, events, strict=True):
        new = event.completion
        assert (new.tokens[:4], new.logprobs[:4], new.version) == (old.tokens, old.logprobs, old.version)
        assert new.spans == ((old.version, 4), (engine.version, len(new.tokens) - 4))
        [expected] = agreed.logprobs([Example([*event.prompt, *new.tokens], learn_from=len(event.prompt))])
        torch.testing.assert_close(torch.tensor(new.logprobs[4:]), torch.tensor(expected[4:]), atol=1e-3, rtol=0)
        assert (torch.tensor(new.logprobs[:4]) - torch.tensor(expected[:4])).abs().max() > 1e-3
    full = Request(seeds, Sampling(max_tokens=4), (Message("user", "What is 3 + 4?"),), begun=begun)
    [(_, events)] = generate(engine, [full])
    assert [event.completion for event in events] == list(begun)


def test_samples_are_those_of_the_weights_that_were_delivered_last(tiny, tmp_path):
    with copied(*tiny, tmp_path) as engine:
        follows_the_weights(engine, *tiny)


def test_samples_that_were_cut_go_on_under_other_weights(tiny, tmp_path):
    with copied(*tiny, tmp_path) as engine:
        goes_on_under_other_weights(engine, *tiny)


def test_weights_that_did_not_arrive_end_the_run_though_the_version_is_right(tiny, tmp_path):
    network, tokenizer = tiny
    with copied(network, tokenizer, tmp_path, takes=False) as engine:
        ask(engine)
        moved(network)
        engine.bump(1)
        with pytest.raises(RunFailed, match=r"does not sample from version 1.*canary differ"):
            ask(engine)


def test_a_sample_of_other_weights_ends_the_run(tiny, tmp_path):
    with copied(*tiny, tmp_path) as engine:
        ask(engine)
        engine.backend.version = "0,1"
        with pytest.raises(RunFailed, match="not of the weights that were delivered"):
            ask(engine)


def test_weights_do_not_change_under_samples_in_flight(tiny, tmp_path):
    with copied(*tiny, tmp_path) as engine:
        request = Request((1,), Sampling(max_tokens=50), (Message("user", "2+2?"),))
        engine.submit(request)
        engine.bump(1)
        with pytest.raises(RunFailed, match="cannot change under samples in flight"):
            engine.submit(request)


def test_what_is_dropped_or_overdue_ends_as_such(tiny, tmp_path):
    with copied(*tiny, tmp_path) as engine:
        request = Request((1, 2), Sampling(max_tokens=50), (Message("user", "2+2?"),))
        id, late = engine.submit(request), engine.submit(replace(request, deadline_s=0.0))
        engine.cancel(id)
        ended = {(e.request, e.sample): e.completion.finish for e in engine.step() if e.completion}
        assert ended == {(id, 0): "cancelled", (id, 1): "cancelled", (late, 0): "deadline", (late, 1): "deadline"}
        with pytest.raises(InputError, match="without stop strings"):
            engine.submit(replace(request, sampling=Sampling(stop=("x",))))


def test_what_is_missing_is_said(tiny, tmp_path):
    wanted = VllmConfig(python=str(tmp_path / "python"))
    with pytest.raises(EnvironmentLacks, match="vLLM cannot be started"), open_vllm(*tiny, wanted) as engine:
        ask(engine)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_server_of_vllm_follows_the_weights(tiny):
    with open_vllm(*tiny, FLOAT.model_copy(update={"python": vllm_python()})) as engine:
        follows_the_weights(engine, *tiny)
        goes_on_under_other_weights(engine, *tiny)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # vLLM's own
def test_vllm_in_this_process_follows_the_weights(tiny):
    with open_vllm(*tiny, FLOAT) as engine:
        follows_the_weights(engine, *tiny)
        goes_on_under_other_weights(engine, *tiny)


def test_arguments_are_settings_in_this_process_and_a_gpu_is_shared(tmp_path, monkeypatch):
    words = ("--tensor-parallel-size=2", "-pp", "3", "--enforce-eager", "--no-enable-prefix-caching", "--seed=7")
    cfg = VllmConfig(arguments=(*words, "--quantization=fp8"), gpu_share=0.25)
    told = {
        "tensor_parallel_size": 2, "pipeline_parallel_size": 3, "enforce_eager": True,
        "enable_prefix_caching": False, "seed": 7, "quantization": "fp8",
    }  # fmt: skip
    assert cfg.keywords == told
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert told.items() <= settings_of(tmp_path, cfg).items()
    assert "gpu_memory_utilization" not in settings_of(tmp_path, cfg)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert settings_of(tmp_path, cfg)["gpu_memory_utilization"] == 0.25


def test_weights_are_handed_over_in_the_hosts_memory_and_the_format_asked_for(tiny):
    network, _ = tiny
    found = weights_of(dict(network.named_parameters()), VllmConfig())
    assert {(x.device.type, x.dtype) for x in found.values()} == {("cpu", torch.bfloat16)}
    assert found["lm_head.weight"].data_ptr() != found["model.embed_tokens.weight"].data_ptr()
