"""Servers of vLLM on the machines of a Ray cluster as one engine: members of a pool, each an actor that starts one.

    with open_vllm(network, tokenizer, VllmConfig(), EngineConfig(ray="auto")) as engine: …

An actor (`ray.py`) starts its server with `vllm.python`, which every machine has under that name, or with its own
Python, on the GPUs that Ray gives it: as many as `vllm.arguments` cut the model into. It asks that server as
`vllm_pool.py` does, and writes the weights that come through Ray's object store to a folder of its machine, which vLLM
reads and which is then removed. An actor whose server is gone is lost with it. Only vLLM's CPU build was run; where
Ray had GPUs to give, they were numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from thinkery.engine import EngineConfig, MembersConfig
from thinkery.engine.pool import PoolEngine, pooled
from thinkery.engine.ray import Actors, InStore, connected_as, has_gpus
from thinkery.engine.vllm import VllmConfig, weights_of, write_untied
from thinkery.engine.vllm_pool import DeskOf, limits_of, run_member, sampling
from thinkery.engine.vllm_server import Server
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.process import Channel


@contextmanager
def open_servers(
    network: Transformer, tokenizer: Tokenizer, cfg: VllmConfig, version: int, on: EngineConfig
) -> Iterator[PoolEngine]:
    """An engine of the servers that the settings ask for, on the cluster they name, for as long as the block lasts."""
    write = partial(write_untied, network=network, tokenizer=tokenizer, cfg=cfg)
    desk, on_gpu = partial(sampling, tokenizer=tokenizer, cfg=cfg), next(network.parameters()).device.type == "cuda"
    with connected_as(on):
        limits, members = limits_of(cfg, on.start_s), Servers(cfg, on, write, desk, on_gpu=on_gpu)
        with pooled(network, tokenizer, limits, members, cfg.tolerance, version) as engine:
            yield engine


class Servers(Actors):
    """Actors that each start a server on the model that `write` writes; with GPUs where the learner is on one or the
    cluster has any."""

    def __init__(
        self, cfg: VllmConfig, on: MembersConfig, write: Callable[[Path], None], desk: DeskOf, *, on_gpu: bool
    ) -> None:
        self.cfg = cfg
        gpus = cfg.gpus if on_gpu or has_gpus() else 0
        super().__init__(on, gpus, write, partial(serve, cfg=cfg, desk=desk))

    def store(self, weights: Mapping[str, Tensor]) -> InStore:
        """A copy of the weights as vLLM reads them, in the object store."""
        return super().store(weights_of(weights, self.cfg))


def serve(connection: Channel, folder: Path, cfg: VllmConfig, desk: DeskOf) -> None:
    """What an actor does: start a server on the model of a folder, and work with it until it is gone."""
    started = cfg.model_copy(update={"python": cfg.python or sys.executable})
    run_member(connection, partial(Server, folder, started), desk)
