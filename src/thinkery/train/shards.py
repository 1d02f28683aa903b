"""Weights in parts, one on each rank: PyTorch's FSDP2, and its checkpoints, which any number of ranks can read (DCP).

    loading     the network is made without numbers, parted, and each rank reads the rows of its part from the files
    computing   a block's weights are gathered while it computes and dropped after
    sampling    whole weights on every rank, once an engine has asked for them
    saving      tensor by tensor to rank 0's memory, where those of one file (5 GB) are together

So no process holds the whole network unless it samples. Gradients are summed, not averaged, because an objective has
divided by denominators of the whole update. Ran over gloo on CPUs; over NCCL it has run in no test, and what it holds
on a GPU was not measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from thinkery.errors import ConfigError, RunFailed
from thinkery.model.hf import FAMILIES, empty, outline, read_config, read_own, save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.model.weights import on_host, read_rows
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.train.batch import Batch, Example
from thinkery.train.optim import SHARDS, PolicyConfig, out_of_memory
from thinkery.train.policy import Policy
from thinkery.train.share import Share


class ShardedPolicy(Policy):
    """A language model of which each rank holds a part (FSDP2): weights, gradients, moments, reference.

    `network` is in parts already (`load_parts`). Ranks keep step: each computes as many micro-batches as the others.
    Running out of memory ends the run, since a rank that starts again alone would leave the others waiting. Once an
    engine has asked for whole weights, every rank has them in the format `sampled`, gathered after each update. With
    `offload = "cpu"` a rank's part is in the host's memory: a block's weights come to the accelerator while it
    computes, and its gradient goes back.
    """

    def __init__(
        self,
        network: Transformer,
        tokenizer: Tokenizer,
        cfg: PolicyConfig,
        *,
        ranks: Ranks,
        sampled: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, tokenizer, cfg, ranks=ranks)
        self.device = network.frequencies.device  # off-loaded weights are elsewhere
        self.offload = cfg.offload == "cpu"
        self.format = sampled
        self.whole: Transformer | None = None

    @property
    def sampled(self) -> Transformer:
        """The whole network, gathered when it is first asked for and after every update from then on."""
        if self.whole is None:
            self.whole = self.gathered(self.format)
        return self.whole

    def copied(self) -> Transformer:
        """A copy of the whole network as it is now, in the format that learns."""
        return self.gathered(torch.float32)

    def gathered(self, dtype: torch.dtype) -> Transformer:
        """The whole network on every rank, all of which must ask for it."""
        whole = empty(self.network.shape, dtype, self.device).eval()
        gather_into(whole, self.network)
        return whole

    def frozen(self, folder: Path) -> Transformer:
        """The network of a folder in parts too, to `score` with: it does not learn."""
        return load_parts(folder, self.ranks, self.device, offload=self.offload, learns=False)[0].eval()

    def refresh_reference(self) -> None:
        """Freeze a copy of this rank's part of the current weights."""
        shape, offload = self.network.shape, self.offload
        reference = empty_parts(shape, self.ranks, self.device, offload=offload, learns=False).eval()
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
        """Log-probabilities under `network`, which is in parts, of the learnt tokens of this rank's examples, empty for
        the others'."""
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

    def save_model(self, folder: Path, *, template: str | None = None, card: str = "") -> None:
        """Write a Hugging Face folder, which rank 0 does, of what all gather; `template` replaces the chat template."""
        tokenizer = self.tokenizer_with(template)
        with self.ranks.together():
            if self.ranks.rank == 0:
                save_model(folder, self.network, tokenizer, card=card, whole=self.gathered_on_host)
            else:
                for part in self.network.parameters():
                    gathered_tensor(part, self.device)

    def gathered_on_host(self, part: Tensor) -> Tensor:
        """A whole tensor in the host's memory, of the parts that all ranks give in the same order."""
        return on_host(gathered_tensor(part, self.device))

    def save(self, folder: Path) -> None:
        """Everything that the next update depends on, in `folder`/shards, every rank its part."""
        write_shards(folder / SHARDS, self.state())

    def read_whole(self, path: Path) -> dict[str, Any]:
        """This rank's parts of a whole state that lies in a file, of which nothing else is read."""
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        names = ["optimizer.state.0"] if state["optimizer"]["state"] else []
        names += ["reference.0"] if state["reference"] else []
        return parts_of(state, self.template(names))

    def restore(self, state: dict[str, Any]) -> None:
        """Take over weights, optimizer, counters and reference."""
        super().restore(state)
        self.gather()


def load_parts(
    folder: Path, ranks: Ranks, device: torch.device, *, offload: bool = False, learns: bool = True
) -> tuple[Transformer, Tokenizer]:
    """The network of a Hugging Face folder in parts, of which each rank reads its own alone, and the tokenizer.

    ConfigError unless the network is our own decoder.
    """
    if read_config(folder).get("model_type") not in FAMILIES:
        hint = 'policy.sharding = "replicated", or a Llama, Qwen2 or Qwen3'
        raise ConfigError("only our own decoder can be sharded", where="policy.sharding", hint=hint)
    shape, tokenizer = read_own(folder)
    network = empty_parts(shape, ranks, device, offload=offload, learns=learns)
    read_parts(folder, network, ranks)
    return network, tokenizer


def empty_parts(
    shape: Shape, ranks: Ranks, device: torch.device, *, offload: bool = False, learns: bool = True
) -> Transformer:
    """A network in parts whose weights are allocated but not set; nothing is allocated that is whole."""
    network = outline(shape).requires_grad_(learns)
    shard(network, ranks, device, offload=offload)
    network.to_empty(device="cpu" if offload else device)
    network.frequencies = network.frequencies.to(device)
    return network


@torch.no_grad()
def read_parts(folder: Path, network: nn.Module, ranks: Ranks) -> None:
    """Set this rank's part of every weight to what the files of a folder have there."""
    parts: dict[str, Any] = dict(network.named_parameters())
    rows = {name: rows_of(len(part), ranks.rank, ranks.count) for name, part in parts.items()}
    for name, read in read_rows(folder, {name: own for name, own in rows.items() if own[0] < own[1]}):
        parts[name].to_local().copy_(read)


def rows_of(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first row of a rank's part and the first behind it, as FSDP2 deals them: the last may have fewer, or none."""
    most = -(-rows // ranks)
    return min(rank * most, rows), min((rank + 1) * most, rows)


def shard(network: Transformer, ranks: Ranks, device: torch.device, *, offload: bool = False) -> None:
    """Leave each rank an equal part of every weight: block by block, then what is outside of blocks."""
    mesh = init_device_mesh(device.type, (ranks.count,))
    where = CPUOffloadPolicy(pin_memory=device.type != "cpu") if offload else OffloadPolicy()
    for block in network.blocks:
        fully_shard(block, mesh=mesh, offload_policy=where)
    fully_shard(network, mesh=mesh, offload_policy=where)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gather_into(whole: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a network in parts into one that is whole, on every rank, a tensor at a time."""
    for ours, part in zip(whole.parameters(), network.parameters(), strict=True):
        ours.data.copy_(gathered_tensor(part, ours.device))


@torch.no_grad()
def gathered_tensor(part: Tensor, device: torch.device) -> Tensor:
    """The whole of a tensor in parts, on the device over which the ranks are connected; all ranks must ask for it."""
    there: Any = part.detach().to(device)
    return there.full_tensor()


@torch.no_grad()
def parts_of(state: Any, like: Any) -> Any:
    """A whole state for this rank, nested as `like` is, with each tensor that is in parts there parted likewise."""
    if isinstance(state, dict):
        return {name: parts_of(value, like[name]) for name, value in state.items()}
    if not isinstance(like, DTensor):
        return state.clone() if isinstance(state, Tensor) else state
    first, end = rows_of(len(state), like.device_mesh.get_local_rank(), like.device_mesh.size())
    own: Any = torch.empty_like(like)
    own.to_local().copy_(state[first:end])
    return own


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
