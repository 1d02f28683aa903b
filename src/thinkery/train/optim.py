"""One careful optimizer step: micro-batches, AdamW, a schedule, clipping, and a guard against NaN.

An objective returns the part of the update's loss that belongs to one micro-batch, already divided by
denominators of the whole update. Gradients of micro-batches therefore simply add up, and how a batch is cut
changes rounding and nothing else: also how it is dealt to several ranks, whose gradients are summed.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from thinkery.config import Config
from thinkery.errors import InputError, NotFinite, RunFailed
from thinkery.model.lora import Lora
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.train.rounded import LARGEST_BETA, RoundedAdamW, is_narrow, no_gradient, no_moments
from thinkery.train.share import Share, dealt

B = TypeVar("B")
SMALLEST_MICRO_BATCH = 64
SHARDS = "shards"
"""The folder of a checkpoint that holds every rank's part, where weights are in parts."""


class LearnerConfig(Config):
    """How weights learn; R1 publishes learning rates, the rest are common choices."""

    lr: float = Field(default=3e-6, ge=0)
    """Peak learning rate (R1's RL: 3e-6)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the first and second moment."""
    eps: float = 1e-8
    """AdamW's denominator guard."""
    weight_decay: float = 0.0
    """Decoupled decay of weight matrices; norms and biases never decay."""
    grad_clip: float = 1.0
    """Longest gradient (2-norm over all weights) that is applied as it is; longer ones are scaled down."""
    warmup: int = 0
    """Updates over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after warm-up."""
    final_lr_share: float = 0.1
    """Where a cosine ends, as a share of `lr`."""
    not_finite_in_a_row: int = 5
    """Updates with a non-finite loss or gradient, one after the other, that end the run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward passes; weights and moments stay as they are."""
    kernels: Literal["compiled", "torch"] = Field(default="compiled", json_schema_extra={"key": False})
    """What computes between matrix products in bfloat16 on a CPU: our own functions, compiled on first use where there
    is a C++ compiler, or PyTorch's, which are slower and need more memory."""
    micro_batch_tokens: int = Field(default=8192, json_schema_extra={"key": False})
    """Most tokens in one forward and backward pass; halved by itself when memory runs out."""
    logits_chunk: int | None = Field(default=None, ge=1, json_schema_extra={"key": False})
    """Most logits (tokens x vocabulary) alive at once; None is 2^24 on a CPU, and 2^28 elsewhere, where small products
    leave most of the device idle."""

    def logits_on(self, device: torch.device) -> int:
        """Most logits alive at once there."""
        return self.logits_chunk or (2**24 if device.type == "cpu" else 2**28)


class PolicyConfig(LearnerConfig):
    """How a language model learns: all of its weights, or low-rank adapters beside them."""

    weights: Literal["float32", "bfloat16"] = Field(default="float32", json_schema_extra={"key": "when set"})
    """What matrices and AdamW's moments are held in, beside gradients in float32: 16 bytes a parameter, or 10 with
    weights that are rounded at random (`train/rounded.py`). That is for our own decoder, needs `dtype = "bfloat16"` and
    betas of at most 0.99, and goes without `lora`, `sharding` and `offload`."""
    lora: Lora | None = None
    """Adapters (LoRA), such as `{rank = 16}`; the weights themselves then stay as they are, and take a learning rate
    about ten times as high."""
    sharding: Literal["replicated", "fsdp"] = Field(default="replicated", json_schema_extra={"key": False})
    """What each of several processes holds: all weights, gradients and moments, or an equal part of them (FSDP2)."""
    sequences: Literal["whole", "split"] = Field(default="whole", json_schema_extra={"key": False})
    """What each of several processes computes: micro-batches of its own, or ("split", with `sharding = "fsdp"` only) a
    part of every sequence, for contexts whose activations one cannot hold."""
    offload: Literal["none", "cpu"] = Field(default="none", json_schema_extra={"key": False})
    """What is held in the host's memory instead of the accelerator's: nothing, or ("cpu") the optimizer and the weights
    that it moves, and with `sharding = "fsdp"` all that a rank has a part of. Adapters (`lora`) stay where they are."""
    activations: Literal["kept", "recomputed"] = Field(default="kept", json_schema_extra={"key": False})
    """What a backward pass needs: kept, or recomputed block by block from each block's inputs (activation
    checkpointing), for about a third more arithmetic and a small part of the memory."""

    @model_validator(mode="after")
    def _weights_can_be_rounded(self) -> PolicyConfig:
        if self.weights == "bfloat16":
            if self.dtype != "bfloat16":
                raise ValueError('weights = "bfloat16" needs dtype = "bfloat16"')
            alone = {"lora": None, "sharding": "replicated", "sequences": "whole", "offload": "none"}
            if wrong := [name for name, wanted in alone.items() if getattr(self, name) != wanted]:
                raise ValueError(f'weights = "bfloat16" goes without {", ".join(wrong)}')
            if max(self.betas) > LARGEST_BETA:
                raise ValueError(f'weights = "bfloat16" needs betas of at most {LARGEST_BETA}, found {self.betas}')
        return self


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimizer step did; `sums` adds up what the objective reported for each micro-batch."""

    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    """The loss or the gradient was not finite, so the weights did not move."""
    sums: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The `optim/*` metrics."""
        return {
            "optim/loss": self.loss,
            "optim/grad_norm": self.grad_norm,
            "optim/lr": self.lr,
            "optim/skipped": float(self.skipped),
        }


class Learner:
    """A network with its AdamW: takes updates, refuses NaN, saves and restores itself bit for bit.

    `updates` counts the updates tried, `version` those that moved the weights. Of several ranks each holds a replica,
    works on its share of every update, and moves by the summed gradient, so that replicas stay equal.
    """

    def __init__(self, network: nn.Module, cfg: LearnerConfig, ranks: Ranks = ALONE) -> None:
        self.network, self.cfg, self.ranks = network, cfg, ranks
        self.device = next(network.parameters()).device
        self.optimizer = adamw(network, cfg)
        self.updates = self.version = 0
        self.bad_in_a_row = 0
        self.micro_batch_tokens = cfg.micro_batch_tokens

    def update(
        self,
        pack: Callable[[int], Sequence[B]],
        objective: Callable[[B], tuple[Tensor, Mapping[str, Tensor]]],
        *,
        total: int,
    ) -> Update:
        """One optimizer step, the next of `total`.

        `pack(max_tokens)` gives the micro-batches of all ranks; it is asked again with half as many tokens when
        memory runs out. Raises NotFinite when too many updates in a row are not finite.
        """
        loss, sums = self.summed(*self.with_memory(lambda: self.learn_share(self.share(pack), objective)))
        norm = self.clip()
        lr = learning_rate(self.cfg, self.updates, total)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self.apply(lr)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.count_bad(finite, loss, norm)
        return Update(loss, norm, lr, not finite, sums)

    def share(self, pack: Callable[[int], Sequence[B]]) -> Share[B]:
        """This rank's part of the micro-batches."""
        return dealt(pack, self.micro_batch_tokens, self.ranks)

    def learn_share(
        self, share: Share[B], objective: Callable[[B], tuple[Tensor, Mapping[str, Tensor]]]
    ) -> tuple[float, dict[str, float]]:
        """`backward` of this rank's micro-batches."""
        return self.backward(share.own, objective)

    def backward(
        self, batches: Sequence[B], objective: Callable[[B], tuple[Tensor, Mapping[str, Tensor]]]
    ) -> tuple[float, dict[str, float]]:
        """Accumulate the gradient of all micro-batches; the summed loss and what the objective reported."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        sums: dict[str, float] = {}
        for batch in batches:
            loss, reported = objective(batch)
            loss.backward()
            total += loss.item()
            for name, value in reported.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return total, sums

    def summed(self, loss: float, sums: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """The gradient, the loss and what the objective reported, each summed over the ranks."""
        if self.ranks is not ALONE:
            self.add_gradients()
        total = self.ranks.sums({"": loss, **sums})
        return total.pop(""), total

    def add_gradients(self) -> None:
        """Sum the gradient over the ranks, of which some may have had nothing to learn from."""
        learning = [p for p in self.network.parameters() if p.requires_grad]
        if not self.ranks.any(any(p.grad is not None for p in learning)):
            return
        for p in learning:
            p.grad = no_gradient(p) if p.grad is None else p.grad
        self.ranks.add([p.grad for p in learning if p.grad is not None])

    def clip(self) -> float:
        """Scale the gradient down to `grad_clip` where it is longer; its 2-norm before."""
        return float(nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.grad_clip))

    def apply(self, lr: float) -> None:
        """Move the weights along the accumulated gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        torch.autograd.graph.increment_version(self.network.parameters())  # which the fused step leaves as it was
        self.version += 1

    def count_bad(self, finite: bool, loss: float, norm: float) -> None:
        """End the run when non-finite updates keep coming."""
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        if self.bad_in_a_row >= self.cfg.not_finite_in_a_row:
            raise NotFinite(
                f"{self.bad_in_a_row} updates in a row had no finite loss and gradient",
                where=f"update {self.updates}",
                found=f"loss {loss}, gradient norm {norm}",
                hint="lower policy.lr or policy.grad_clip; the weights are those of the last finite update, and"
                " --branch RUN@STEP:good goes back to those before alarms rang",
            )

    def with_memory(self, work: Callable[[], Any]) -> Any:
        """Do the work; each time memory runs out, on any rank, halve the micro-batch and do it again."""
        while True:
            found = None
            try:
                found = work()
                full = False
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                full = True
            if not self.ranks.any(full):
                return found
            self.optimizer.zero_grad(set_to_none=True)
            if self.micro_batch_tokens <= SMALLEST_MICRO_BATCH:
                raise RunFailed(
                    "one sequence does not fit in memory",
                    where="policy.micro_batch_tokens",
                    found=f"{self.micro_batch_tokens} tokens after halving",
                    hint="lower max_tokens, or use a smaller model or a larger device",
                )
            self.micro_batch_tokens //= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def save(self, folder: Path) -> None:
        """Everything that the next update depends on, in `folder`/learner.pt, written by rank 0."""
        if self.ranks.rank == 0:
            torch.save(self.state(), folder / "learner.pt")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on as many ranks as it may be; the next update is then the one that would have
        followed."""
        if (folder / SHARDS).exists():
            from thinkery.train.shards import read_shards  # which is slow to import, and seldom needed

            self.restore(read_shards(folder / SHARDS, self.template, self.ranks))
        elif (folder / "learner.pt").exists():
            self.restore(self.read_whole(folder / "learner.pt"))
        else:
            raise InputError("no training state here", where=str(folder), hint="run with --fresh to start over")

    def read_whole(self, path: Path) -> dict[str, Any]:
        """What this rank holds of a whole state that lies in a file: all of it, from where `restore` takes it to its
        place tensor by tensor, since an accelerator need not have room for it twice."""
        return torch.load(path, map_location="cpu", weights_only=True, mmap=self.device.type != "cpu")

    def template(self, names: Collection[str]) -> dict[str, Any]:
        """A state with room for everything that is `names`d, such as `optimizer.state.0.exp_avg`."""
        if any(name.startswith("optimizer.state.") for name in names):
            make_moments(self.optimizer)
        return self.state()

    def state(self) -> dict[str, Any]:
        """What `save` writes."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "version": self.version,
            "bad_in_a_row": self.bad_in_a_row,
            "micro_batch_tokens": self.micro_batch_tokens,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state that `state` described."""
        self.network.load_state_dict(state["network"])
        names = ("betas", "eps", "weight_decay")  # of these the settings count, not what they were
        settings = [{name: group[name] for name in names} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group |= own
        self.updates, self.version = state["updates"], state["version"]
        self.bad_in_a_row, self.micro_batch_tokens = state["bad_in_a_row"], state["micro_batch_tokens"]


def learning_rate(cfg: LearnerConfig, update: int, total: int) -> float:
    """The rate of update number `update` (from 0) of `total`: linear warm-up, then constant or a cosine."""
    if update < cfg.warmup:
        return cfg.lr * (update + 1) / cfg.warmup
    if cfg.schedule == "constant":
        return cfg.lr
    progress = min(1.0, (update - cfg.warmup) / max(1, total - 1 - cfg.warmup))
    share = cfg.final_lr_share + (1 - cfg.final_lr_share) * (1 + math.cos(math.pi * progress)) / 2
    return cfg.lr * share


def adamw(network: nn.Module, cfg: LearnerConfig) -> torch.optim.AdamW:
    """AdamW in which only matrices decay."""
    learning = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
    ]
    kind = RoundedAdamW if any(map(is_narrow, learning)) else torch.optim.AdamW
    return kind([g for g in groups if g["params"]], lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=True)


def make_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every parameter the moments that AdamW's first step would make, at zero."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = no_moments(p)


def out_of_memory(error: RuntimeError) -> bool:
    """True for the ways in which torch says that memory ran out, on accelerators and on the CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate memory" in text


def resident_bytes() -> float:
    """Memory this process holds now; its peak where the system does not tell (macOS)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return float(statm.read_text().split()[1]) * resource.getpagesize()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
