"""Weights in parts, one on each rank: PyTorch's FSDP2, and its checkpoints, which any number of ranks can read (DCP).

A block's weights are gathered while it computes and dropped after. Gradients are summed, not averaged, because an
objective has divided by denominators of the whole update. Ran over gloo on CPUs; over NCCL it has run in no test.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from thinkery.errors import ConfigError, RunFailed
from thinkery.model.hf import empty
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.train.batch import Batch, Example
from thinkery.train.optim import SHARDS, PolicyConfig, out_of_memory
from thinkery.train.policy import Policy
from thinkery.train.share import Share


class ShardedPolicy(Policy):
    """A language model of which each rank holds a part (FSDP2): weights, gradients, moments, reference.

    Ranks keep step: each computes as many micro-batches as the others. Running out of memory ends the run, since a
    rank that starts again alone would leave the others waiting. For sampling and saving the whole weights are gathered
    on every rank after each update, 4 bytes a parameter. With `offload = "cpu"` a rank's part is in the host's memory:
    a block's weights come to the accelerator while it computes, and its gradient goes back.
    """

    def __init__(self, network: Any, tokenizer: Tokenizer, cfg: PolicyConfig, *, ranks: Ranks) -> None:
        if not isinstance(network, Transformer):
            hint = 'policy.sharding = "replicated", or a Llama, Qwen2 or Qwen3'
            raise ConfigError("only our own decoder can be sharded", where="policy.sharding", hint=hint)
        device = network.lm_head.weight.device
        self.offload = cfg.offload == "cpu"
        shard(network, ranks, offload=self.offload)
        super().__init__(network, tokenizer, cfg, ranks=ranks)
        self.device = device
        self.whole: Transformer | None = None

    @property
    def sampled(self) -> Transformer:
        """The whole network, gathered when it is first asked for and after every update from then on."""
        if self.whole is None:
            self.whole = empty(self.network.shape).to(self.device).eval()
            gather_into(self.whole, self.network)
        return self.whole

    def refresh_reference(self) -> None:
        """Freeze a copy of this rank's part of the current weights."""
        reference = empty(self.network.shape).to(self.device).eval().requires_grad_(False)
        shard(reference, self.ranks, offload=self.offload)
        reference.load_state_dict(self.network.state_dict())
        self.reference = reference

    def learn_share(
        self, share: Share[Batch], objective: Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]
    ) -> tuple[float, dict[str, float]]:
        """`backward` of this rank's micro-batches, and of idle ones with a gradient of zero."""
        found = self.backward(share.own, objective)
        for batch in share.idle:
            (0 * objective(batch)[0]).backward()
        return found

    def add_gradients(self) -> None:
        """Nothing: they have been summed on the way back."""

    def clip(self) -> float:
        """Scale the gradient down to `grad_clip` where the whole of it is longer; its 2-norm before."""
        norm: Any = nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.grad_clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)  # no gradient, no DTensor

    def score(self, network: Any, examples: Sequence[Example], temperature: float) -> list[list[float]]:
        """Log-probabilities under `network` of the learnt tokens of this rank's examples, empty for the others'."""
        found = super().score(network, examples, temperature)
        network.reshard()  # what is outside of blocks stays gathered for a backward pass, which does not come
        return found

    def in_step(self, share: Share[Batch], compute: Callable[[Batch], Tensor]) -> Sequence[Batch]:
        """This rank's micro-batches, once it has computed those of others that keep the ranks in step."""
        for batch in share.idle:
            compute(batch)
        return share.own

    def with_memory(self, work: Callable[[], Any]) -> Any:
        """Do the work; RunFailed when memory runs out, RankLost when another rank is gone."""
        try:
            with self.ranks.together():
                return work()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            hint = "lower policy.micro_batch_tokens; sharded ranks cannot back off by themselves"
            raise RunFailed("memory ran out", where="policy.micro_batch_tokens", hint=hint) from error

    def apply(self, lr: float) -> None:
        """Move the weights along the accumulated gradient."""
        super().apply(lr)
        self.gather()

    def gather(self) -> None:
        """Bring the whole network up to date where there is one."""
        if self.whole is not None:
            gather_into(self.whole, self.network)

    def save(self, folder: Path) -> None:
        """Everything that the next update depends on, in `folder`/shards, every rank its part."""
        write_shards(folder / SHARDS, self.state())

    def held(self, state: dict[str, Any]) -> dict[str, Any]:
        """This rank's parts of a whole state."""
        names = ["optimizer.state.0"] if state["optimizer"]["state"] else []
        names += ["reference.0"] if state["reference"] else []
        return parts_of(state, self.template(names))

    def restore(self, state: dict[str, Any]) -> None:
        """Take over weights, optimizer, counters and reference."""
        super().restore(state)
        self.gather()


def shard(network: Transformer, ranks: Ranks, *, offload: bool = False) -> None:
    """Leave each rank an equal part of every weight: block by block, then what is outside of blocks."""
    device = network.lm_head.weight.device.type
    mesh = init_device_mesh(device, (ranks.count,))
    where = CPUOffloadPolicy(pin_memory=device != "cpu") if offload else OffloadPolicy()
    for block in network.blocks:
        fully_shard(block, mesh=mesh, offload_policy=where)
    fully_shard(network, mesh=mesh, offload_policy=where)
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
    save(state, checkpoint_id=folder)


def read_shards(folder: Path, template: Callable[[Collection[str]], dict[str, Any]], ranks: Ranks) -> dict[str, Any]:
    """Read a state that any number of ranks has written; `template` makes room for what is named there."""
    names = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = template(names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # which `no_dist` asks for
        load(state, checkpoint_id=folder, no_dist=ranks is ALONE)
    return state
