"""Weights in parts, one on each rank: PyTorch's FSDP2, and its checkpoints, which any number of ranks can read (DCP).

A block's weights are gathered while it computes and dropped after. Gradients are summed, not averaged, because an
objective has divided by denominators of the whole update. Ran over gloo on CPUs; over NCCL it has run in no test.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from thinkery.model.transformer import Transformer
from thinkery.pipeline.ranks import ALONE, Ranks

SHARDS = "shards"
"""The folder of a checkpoint that holds every rank's part."""


def shard(network: Transformer, ranks: Ranks) -> None:
    """Leave each rank an equal part of every weight: block by block, then what is outside of blocks."""
    mesh = init_device_mesh(network.lm_head.weight.device.type, (ranks.count,))
    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gather_into(whole: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a network in parts into one that is whole, on every rank."""
    for ours, part in zip(whole.parameters(), network.parameters(), strict=True):
        assert isinstance(part, DTensor)
        ours.data.copy_(part.full_tensor())


def parts_of(state: Any, like: Any) -> Any:
    """A whole state, nested as `like` is, with each tensor that is in parts there parted likewise."""
    if isinstance(state, dict):
        return {name: parts_of(value, like[name]) for name, value in state.items()}
    if isinstance(like, DTensor):
        return distribute_tensor(state, like.device_mesh, like.placements)
    return state


def write_shards(folder: Path, state: dict[str, Any]) -> None:
    """Write a state, every rank its part."""
    dcp.save(state, checkpoint_id=folder)


def read_shards(
    folder: Path, template: Callable[[Collection[str]], dict[str, Any]], ranks: Ranks
) -> dict[str, Any]:
    """Read a state that any number of ranks has written; `template` makes room for what is named there."""
    names = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = template(names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # which `no_dist` asks for
        dcp.load(state, checkpoint_id=folder, no_dist=ranks is ALONE)
    return state
