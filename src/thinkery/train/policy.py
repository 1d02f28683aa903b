"""The weights that learn by reinforcement or imitation: log-probabilities, a frozen reference, updates.

Logits of a whole batch are never held: hidden states are picked at the learnt tokens, and the head is applied
to them in chunks that the backward pass computes again.

Shapes: T tokens of a micro-batch, C learnt tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from thinkery.errors import ConfigError, InputError
from thinkery.model.hf import accelerator, load_model, save_model
from thinkery.model.lora import Lora, adapt, adapters, merged, save_adapter, sharing_frozen
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer, recomputed
from thinkery.model.weights import read_headers
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.pipeline.run import Run
from thinkery.train.batch import Batch, Example, packing, per_example
from thinkery.train.held import copied_bytes, require_memory
from thinkery.train.mixed import MixedTransformer, learns_compiled, learns_mixed
from thinkery.train.optim import Learner, LearnerConfig, PolicyConfig
from thinkery.train.peak import matrix_flops
from thinkery.train.rounded import is_narrow, narrow
from thinkery.train.share import Share, collected

__all__ = ["Policy", "PolicyConfig", "open_policy"]

IN_CACHE = 2**20
"""Logits in float32 that are worked on at once on a CPU."""


@contextmanager
def open_policy(
    run: Run, model: Model, cfg: PolicyConfig, *, sampled: torch.dtype | None = None, copied: bool = False
) -> Iterator[Policy]:
    """The model's weights, ready to learn, on the accelerator where there is one.

    `sampled` is the number format in which engines will sample from them, None where none will. Weights in parts are
    then whole once more: in that format on an accelerator, in float32 elsewhere. Whole ones are `copied` where an
    engine of this process samples from them in another format.
    """
    device = accelerator()
    if sampled and device.type == "cpu":
        sampled = torch.float32
    stored = sum(tensor.numel() for tensor in read_headers(model.folder).values())
    size = sampled.itemsize if sampled else 0
    beside = copied_bytes(cfg, size) if copied else 0
    require_memory(stored, cfg, where=str(model.folder), ranks=run.ranks.count, sampled=size, copied=beside)
    if cfg.sharding == "fsdp" and run.ranks is not ALONE and not cfg.lora:
        policy = open_in_parts(run, model.folder, cfg, device, sampled or torch.float32)
    else:
        policy = open_whole(run, model.folder, cfg, device)
    try:
        yield policy
    finally:
        policy.close()


def open_whole(run: Run, folder: Path, cfg: PolicyConfig, device: torch.device) -> Policy:
    """A policy of which every rank has all."""
    if cfg.sequences == "split" and run.ranks is not ALONE and not cfg.lora:
        hint = 'set policy.sharding = "fsdp", or policy.sequences = "whole"'
        raise ConfigError("only sharded ranks split sequences", where="policy.sequences", found=cfg.sharding, hint=hint)
    network, tokenizer = load_model(folder, device=device)
    if cfg.lora:
        return LoraPolicy(network, tokenizer, cfg, lora=cfg.lora, seed=run.seed, ranks=run.ranks)
    if cfg.offload == "cpu":
        from thinkery.train.offload import OffloadedPolicy  # which is built on this file

        return OffloadedPolicy(network, tokenizer, cfg, ranks=run.ranks)
    return Policy(network, tokenizer, cfg, ranks=run.ranks)


def open_in_parts(run: Run, folder: Path, cfg: PolicyConfig, device: torch.device, sampled: torch.dtype) -> Policy:
    """A policy of which every rank has a part, imported here because that takes a third of torch's own time."""
    from thinkery.train.sequences import SplitPolicy
    from thinkery.train.shards import ShardedPolicy, load_parts

    network, tokenizer = load_parts(folder, run.ranks, device, offload=cfg.offload == "cpu")
    kind = SplitPolicy if cfg.sequences == "split" else ShardedPolicy
    return kind(network, tokenizer, cfg, ranks=run.ranks, sampled=sampled)


class Policy(Learner):
    """A language model that learns; `version` counts the updates that moved its weights.

    The network stays in evaluation mode (no dropout), so that training computes the very probabilities that
    sampling used and a resumed run needs no random state.
    """

    def __init__(self, network: Any, tokenizer: Tokenizer, cfg: PolicyConfig, *, ranks: Ranks = ALONE) -> None:
        if cfg.weights == "bfloat16":
            narrow(network)
        super().__init__(network.eval(), cfg, ranks)
        self.network: Any = network
        if cfg.activations == "recomputed":
            recompute_activations(network)
        self.learning = mixed(network, cfg)
        """What computes with the network's weights: `MixedTransformer` in bfloat16 where it can, else the network."""
        self.tokenizer = tokenizer
        self.reference: nn.Module | None = None
        self.parameters = sum(p.numel() for p in network.parameters())
        self.tokens_passed = 0

    @property
    def sampled(self) -> Any:
        """The whole network, which engines sample from and which follows every update."""
        return self.network

    def copied(self) -> Any:
        """A copy of the whole network as it is now, in the format that learns."""
        return copy.deepcopy(self.network)

    def frozen(self, folder: Path) -> Any:
        """The network of a folder, held as this one is, to `score` with: it does not learn."""
        network: Any = load_model(folder)[0].to(self.device).eval()
        if any(map(is_narrow, self.network.parameters())):
            narrow(network)
        return network.requires_grad_(False)

    def refresh_reference(self) -> None:
        """Freeze a copy of the current weights as the reference of the KL term (R1: every 400 updates)."""
        self.reference = self.copied().requires_grad_(False)

    def pack(self, examples: Sequence[Example], max_tokens: int) -> list[Batch]:
        """Micro-batches for this network, prompts shared where it can."""
        return packing(self.network)(examples, max_tokens, self.device)

    def forward(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """(logprobs_C, entropies_C) of the learnt tokens; gradients flow through the first only."""
        self.tokens_passed += len(batch.tokens_T)
        return self.logprobs_of(self.learning, batch, temperature)

    def logprobs_of(self, network: Any, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
        """(logprobs_C, entropies_C) of the learnt tokens under a network of this kind."""
        return token_logprobs(network, batch, temperature, self.cfg)

    @torch.no_grad()
    def logprobs(
        self, examples: Sequence[Example], temperature: float = 1.0, *, reference: bool = False
    ) -> list[list[float]]:
        """Log-probabilities of every example's learnt tokens, under the reference where asked for."""
        network = mixed(self.reference, self.cfg) if reference else self.learning
        return collected(self.with_memory(lambda: self.score(network, examples, temperature)), self.ranks)

    def score(self, network: Any, examples: Sequence[Example], temperature: float) -> list[list[float]]:
        """Log-probabilities under `network` of the learnt tokens of this rank's examples, empty for the others'."""

        def logprobs(batch: Batch) -> Tensor:
            return self.logprobs_of(network, batch, temperature)[0]

        share = self.share(partial(self.pack, examples))
        return per_example(len(examples), self.in_step(share, logprobs), logprobs)

    def in_step(self, share: Share[Batch], compute: Callable[[Batch], Tensor]) -> Sequence[Batch]:
        """This rank's micro-batches; replicas need not keep step."""
        return share.own

    def learning_flops(self) -> float:
        """FLOPs of the forward and backward passes since this was last asked: 6 a parameter and token."""
        return 6.0 * self.parameters * self.tokens_since()

    def utilisation(self, flops: float, seconds: float) -> float:
        """The share of what the processors of all ranks could have computed in so many seconds (MFU)."""
        peak = matrix_flops(self.device, getattr(torch, self.cfg.dtype))
        return flops / (seconds * peak * self.ranks.count)

    def tokens_since(self) -> float:
        """Tokens that have passed on all ranks since this was last asked."""
        passed, self.tokens_passed = self.tokens_passed, 0
        return self.ranks.sums({"tokens": passed})["tokens"]

    def tokenizer_with(self, template: str | None) -> Tokenizer:
        """The tokenizer, with another chat template where one is given."""
        return self.tokenizer if template is None else self.tokenizer.with_template(template)

    def save_model(self, folder: Path, *, template: str | None = None, card: str = "") -> None:
        """Write a Hugging Face folder, which rank 0 does; `template` replaces the chat template."""
        tokenizer = self.tokenizer_with(template)
        if self.ranks.rank == 0:
            save_model(folder, self.network, tokenizer, card=card)

    def close(self) -> None:
        """Let go of the reference and the optimizer state."""
        self.reference = None
        self.optimizer.state.clear()

    def state(self) -> dict[str, Any]:
        """The learner's state and the reference's weights."""
        return super().state() | {"reference": None if self.reference is None else self.reference.state_dict()}

    def template(self, names: Collection[str]) -> dict[str, Any]:
        """A state with room for everything that is `names`d, a reference included."""
        if any(name.startswith("reference.") for name in names):
            self.refresh_reference()
        return super().template(names)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over weights, optimizer, counters and reference."""
        super().restore(state)
        if state["reference"] is not None:
            self.refresh_reference()
            assert self.reference is not None
            self.reference.load_state_dict(state["reference"])


class LoraPolicy(Policy):
    """A frozen language model with low-rank adapters that learn (`model/lora.py`).

    Checkpoints and the reference hold the adapters only. A saved model is merged, a model like any other, and its
    adapters lie beside it in `adapter/`, as PEFT reads them.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Tokenizer,
        cfg: PolicyConfig,
        *,
        lora: Lora,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        adapt(network, lora, seed=seed)
        super().__init__(network, tokenizer, cfg, ranks=ranks)
        self.lora = lora

    def refresh_reference(self) -> None:
        """Freeze a copy of the current adapters, on the same frozen weights, as the reference of the KL term."""
        self.reference = sharing_frozen(self.network).requires_grad_(False)

    def learning_flops(self) -> float:
        """FLOPs since this was last asked, which are 2 a parameter and token fewer where it is frozen."""
        learning = sum(t.numel() for t in adapters(self.network).values())
        return (4.0 * self.parameters + 2.0 * learning) * self.tokens_since()

    def save_model(self, folder: Path, *, template: str | None = None, card: str = "") -> None:
        """Write the merged model, and the adapters alone in `adapter/`, which rank 0 does."""
        if self.ranks.rank:
            return
        tokenizer = self.tokenizer_with(template)
        save_model(folder, merged(self.network), tokenizer, card=card)
        save_adapter(folder / "adapter", self.network, self.lora)

    def state(self) -> dict[str, Any]:
        """The learner's state, of weights the adapters alone."""
        learning = adapters(self.network)
        reference = None if self.reference is None else {n: self.reference.state_dict()[n] for n in learning}
        return super().state() | {"network": learning, "reference": reference}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over adapters, optimizer, counters and reference."""
        whole = self.network.state_dict()
        if state["network"].keys() != adapters(self.network).keys():
            hint = "set policy.lora as it was, or run with --fresh to start over"
            raise InputError("the checkpoint is not of these adapters", where="policy.lora", hint=hint)
        reference = state["reference"] and whole | state["reference"]
        super().restore(state | {"network": whole | state["network"], "reference": reference})


def recompute_activations(network: Any) -> None:
    """Have backward passes compute every block again; ConfigError unless the network is our own decoder."""
    if not isinstance(network, Transformer):
        hint = 'policy.activations = "kept", or a Llama, Qwen2 or Qwen3'
        raise ConfigError("only our own decoder can recompute activations", where="policy.activations", hint=hint)
    network.through = recomputed


def mixed(network: Any, cfg: LearnerConfig) -> Any:
    """The network as it learns in bfloat16 by compiled functions where it can; otherwise the network itself."""
    compiled = learns_mixed(network) and learns_compiled(network.shape, cfg)
    return MixedTransformer(network) if compiled else network


def token_logprobs(network: Any, batch: Batch, temperature: float, cfg: LearnerConfig) -> tuple[Tensor, Tensor]:
    """(logprobs_C, entropies_C) under softmax(logits / temperature); entropies are detached."""
    size = max(1, cfg.logits_on(batch.tokens_T.device) // network.shape.vocab_size)
    if isinstance(network, MixedTransformer):
        hidden_CD = batch.hidden(network).index_select(0, batch.predictors_C)
        return in_chunks(partial(network.logprobs, temperature=temperature), hidden_CD, batch.labels_C, size)
    with torch.autocast(batch.tokens_T.device.type, torch.bfloat16, enabled=cfg.dtype == "bfloat16"):
        hidden_CD = batch.hidden(network).index_select(0, batch.predictors_C)
        return in_chunks(partial(head, network, temperature), hidden_CD, batch.labels_C, size)


def head(network: Any, temperature: float, hidden_CD: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """(logprobs_C, entropies_C) of labels after hidden states."""
    return logprobs_and_entropies(network.logits(hidden_CD), labels_C, temperature)


def in_chunks(
    scored: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], hidden_CD: Tensor, labels_C: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and entropy of each distribution, of at most `size` tokens at a time.

    One chunk keeps its logits for the backward pass; of several, the backward pass computes each again.
    """
    if hidden_CD.shape[0] <= size:
        return scored(hidden_CD, labels_C)
    parts = [
        checkpoint(scored, hidden, labels, use_reentrant=False, preserve_rng_state=False)
        for hidden, labels in zip(hidden_CD.split(size), labels_C.split(size), strict=True)
    ]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def logprobs_and_entropies(logits_CV: Tensor, labels_C: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(label) with its gradient, and the entropy in nats without, under softmax(logits / temperature)."""
    return LabelLogprobs.apply(logits_CV, labels_C, temperature)


class LabelLogprobs(Function):
    """Softmax over a large vocabulary, a few rows at a time, so that nothing of its size is made but the gradient.

    Logits stay in the format of the matrix product that made them; arithmetic on them is in float32.
    """

    @staticmethod
    def forward(ctx: Any, logits_CV: Tensor, labels_C: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits_CV, labels_C)
        ctx.temperature = temperature
        logprobs, entropies = [], []
        for some, labels in zip(*in_cache(logits_CV, labels_C), strict=True):
            logprobs_RV = tempered(some, temperature).log_softmax(-1)
            logprobs.append(logprobs_RV.gather(-1, labels[:, None])[:, 0])
            entropies.append(-(logprobs_RV.exp() * logprobs_RV).sum(-1))
        found = torch.cat(logprobs), torch.cat(entropies)
        ctx.mark_non_differentiable(found[1])
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits_CV, labels_C = ctx.saved_tensors
        slopes_C, slope_CV = gradients[0] / ctx.temperature, torch.empty_like(logits_CV)
        parts = zip(*in_cache(logits_CV, labels_C, slopes_C, slope_CV), strict=True)
        for some, labels, slopes, slope_RV in parts:
            p_RV = tempered(some, ctx.temperature).softmax(-1)
            p_RV *= -slopes[:, None]
            p_RV.scatter_add_(1, labels[:, None], slopes[:, None])
            slope_RV.copy_(p_RV)
        return slope_CV, None, None


def tempered(logits_RV: Tensor, temperature: float) -> Tensor:
    """In float32, over the temperature."""
    return logits_RV.float() if temperature == 1 else logits_RV.float() / temperature


def in_cache(logits_CV: Tensor, *others_C: Tensor) -> list[Sequence[Tensor]]:
    """Views of a few rows each: as many as a CPU's caches hold, all of them elsewhere."""
    size = max(1, IN_CACHE // logits_CV.shape[1]) if logits_CV.device.type == "cpu" else max(1, len(logits_CV))
    return [each.split(size) for each in (logits_CV, *others_C)]
