"""The decoder as it learns in bfloat16 on a CPU: `model/transformer.py`'s arithmetic, its backward pass by hand.

Gradients are float32, and so are weights, but for matrices with `policy.weights = "bfloat16"`. Every product lays its
weights out in bfloat16, in the order it reads them and in rooms that all share, and adds to `.grad` itself. All of it
is computed by the functions of `kernels.cpp`. Of every block stay its input, queries, keys and values, attention's
output, the residual between its halves, and gate and up; the rest is made again.

PyTorch's operations under autocast do the same with `policy.kernels = "torch"`, where there is no compiler, on other
devices, for weights in parts (FSDP2) and for networks that are not ours.

Shapes: T tokens, D width, H query heads and K key heads of E numbers, N = (H + 2K)E, F feed-forward width, C learnt
tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from thinkery.model.lora import LoraLinear
from thinkery.model.shared import Group, shared_positions
from thinkery.model.transformer import Shape, Transformer
from thinkery.train.kernels import Kernels, Spans, suits
from thinkery.train.optim import LearnerConfig
from thinkery.train.rounded import is_narrow, no_gradient


def learns_compiled(shape: Shape, cfg: LearnerConfig) -> bool:
    """Whether a decoder of this shape learns by these functions where `learns_mixed` allows it."""
    return cfg.dtype == "bfloat16" and cfg.kernels == "compiled" and suits(shape)


def learns_mixed(network: Any) -> bool:
    """Whether a network is our own decoder on a CPU, with weights that are whole."""
    return isinstance(network, Transformer) and all(
        type(p) is nn.Parameter and p.device.type == "cpu" and (p.dtype == torch.float32 or is_narrow(p))
        for p in network.parameters()
    )


class MixedTransformer:
    """A network whose weights are multiplied in bfloat16."""

    def __init__(self, source: Transformer) -> None:
        self.source, self.shape, self.kernels = source, source.shape, Kernels()
        self.blocks = [MixedBlock(block, self.shape, self.kernels) for block in source.blocks]
        self.head = Product(self.kernels, source.lm_head)
        self.learns = any(p.requires_grad for p in source.parameters())

    def hidden(self, tokens_T: Tensor, groups: Sequence[Group]) -> Tensor:
        """hidden_TD after the final norm, of groups laid end to end."""
        model: Any = self.source.model
        spans = Spans(groups)
        x_TD = Embedded.apply(torch.empty(0, requires_grad=self.learns), tokens_T, model["embed_tokens"].weight)
        rotations = self.source.rotations(shared_positions(groups), torch.float32)
        for block in self.blocks:
            x_TD = self.source.through(block, x_TD, *rotations, spans)
        return Normed.apply(x_TD, model["norm"].weight, self.shape.rms_norm_eps, self.kernels)

    def logprobs(self, hidden_CD: Tensor, labels_C: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(logprobs_C, entropies_C) of the labels; gradients flow through the first only."""
        return Labelled.apply(hidden_CD, labels_C, temperature, self.head, self.kernels)


class Product:
    """Linear layers of one input as one product, whose weights' gradients it adds to where they belong."""

    def __init__(self, kernels: Kernels, *layers: Any) -> None:
        self.kernels, self.layers = kernels, layers
        self.bases: list[nn.Linear] = [layer.base if isinstance(layer, LoraLinear) else layer for layer in layers]
        self.widths = [base.out_features for base in self.bases]

    def panels(self, *, transposed: bool = False) -> Tensor:
        """The weights in bfloat16, as they are now, until those of another product are asked for."""
        return self.kernels.panels([base.weight for base in self.bases], transposed=transposed)

    def __call__(self, x_TD: Tensor) -> Tensor:
        biases = [base.bias.detach() for base in self.bases if base.bias is not None]
        bias_N = torch.cat(biases) if biases else None
        out_TN = self.kernels.multiply(x_TD, self.panels(), sum(self.widths), bias_N)
        for layer, out in zip(self.layers, out_TN.split(self.widths, 1), strict=True):
            if isinstance(layer, LoraLinear):
                out.addmm_(x_TD @ layer.lora_A.bfloat16().T, layer.lora_B.bfloat16().T, alpha=layer.scale)
        return out_TN

    def back(self, slope_TN: Tensor) -> Tensor:
        """The slope of the input, from that of the output."""
        x_slope_TD = self.kernels.multiply(slope_TN, self.panels(transposed=True), self.bases[0].in_features)
        for layer, slope in zip(self.layers, slope_TN.split(self.widths, 1), strict=True):
            if isinstance(layer, LoraLinear):
                x_slope_TD.addmm_(slope @ layer.lora_B.bfloat16(), layer.lora_A.bfloat16(), alpha=layer.scale)
        return x_slope_TD

    def learn(self, x_TD: Tensor, slope_TN: Tensor) -> None:
        """Add to the gradients of what learns, from the input and the slope of the output."""
        for layer, base, slope in zip(self.layers, self.bases, slope_TN.split(self.widths, 1), strict=True):
            if isinstance(layer, LoraLinear):
                add_gradient(layer.lora_A, ((slope @ layer.lora_B.bfloat16() * layer.scale).T @ x_TD).float())
                add_gradient(layer.lora_B, (slope.T @ (x_TD @ layer.lora_A.bfloat16().T * layer.scale)).float())
            if base.bias is not None and base.bias.requires_grad:
                add_gradient(base.bias, slope.sum(0, dtype=torch.float32))
            if base.weight.requires_grad:
                known = base.weight.grad
                gradient = torch.empty_like(base.weight, dtype=torch.float32) if known is None else known
                self.kernels.learn(gradient, x_TD, slope, add=known is not None)
                base.weight.grad = gradient


class MixedBlock:
    """A block of the network; calling it is one step of autograd."""

    def __init__(self, block: Any, shape: Shape, kernels: Kernels) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.shape, self.kernels, self.attention = shape, kernels, attention
        self.before_attention, self.before_mlp = block.input_layernorm, block.post_attention_layernorm
        self.qkv = Product(kernels, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = Product(kernels, attention.o_proj)
        self.gate_and_up = Product(kernels, mlp.gate_proj, mlp.up_proj)
        self.down = Product(kernels, mlp.down_proj)
        self.heads = shape.num_attention_heads, shape.num_key_value_heads
        self.turned = sum(self.heads)
        """Heads that have a position: queries and keys."""

    def __call__(self, x_TD: Tensor, cos_TE: Tensor, sin_TE: Tensor, spans: Spans) -> Tensor:
        return Passed.apply(x_TD, self, cos_TE, sin_TE, spans)

    def forward(self, x_TD: Tensor, cos_TE: Tensor, sin_TE: Tensor, spans: Spans) -> tuple[Tensor, ...]:
        """(out_TD, and what `backward` needs besides x: raw queries and keys where they are normed, qkv, attention's
        output and logs, the residual between the halves, gate and up)."""
        do, eps = self.kernels, self.shape.rms_norm_eps
        qkv_TN = self.qkv(do.normed(x_TD, self.before_attention.weight, eps))
        raw_TN = qkv_TN[:, : self.turned * self.shape.head_dim].clone() if self.shape.qk_norm else qkv_TN[:0]
        if self.shape.qk_norm:
            qkv_TN[:, : raw_TN.shape[1]] = self.head_normed(raw_TN)
        do.rotate(qkv_TN, cos_TE, sin_TE, self.turned)
        seen_TD, logs_HT = do.attend(qkv_TN, spans, self.shape)
        middle_TD, normed_TD = do.add_normed(x_TD, self.out(seen_TD), self.before_mlp.weight, eps)
        gate_and_up_TF = self.gate_and_up(normed_TD)
        out_TD = do.added(middle_TD, self.down(do.gated(gate_and_up_TF)))
        return out_TD, raw_TN, qkv_TN, seen_TD, logs_HT, middle_TD, gate_and_up_TF

    def backward(
        self, slope_TD: Tensor, x_TD: Tensor, made: Sequence[Tensor], cos_TE: Tensor, sin_TE: Tensor, spans: Spans
    ) -> Tensor:
        """The slope of x, from that of out and from what `forward` made."""
        do, eps = self.kernels, self.shape.rms_norm_eps
        raw_TN, qkv_TN, seen_TD, logs_HT, middle_TD, gate_and_up_TF = made
        narrow_TD = slope_TD.bfloat16()
        gated_TF = self.down.back(narrow_TD)  # its slope, and after the next line what it was
        slope_TF = do.gated_back(gate_and_up_TF, gated_TF)
        self.down.learn(gated_TF, narrow_TD)
        scales, normed_slope_TD = self.before_mlp.weight, self.gate_and_up.back(slope_TF)
        slope_TD, narrow_TD, scales_slope_D, normed_TD = do.normed_back(
            middle_TD, scales, eps, normed_slope_TD, slope_TD
        )
        add_gradient(scales, scales_slope_D)
        self.gate_and_up.learn(normed_TD, slope_TF)
        qkv_slope_TN = do.attend_back(qkv_TN, seen_TD, logs_HT, self.out.back(narrow_TD), spans, self.shape)
        self.out.learn(seen_TD, narrow_TD)
        do.rotate(qkv_slope_TN, cos_TE, sin_TE, self.turned, back=True)
        if self.shape.qk_norm:
            self.head_normed_back(raw_TN, qkv_slope_TN[:, : raw_TN.shape[1]])
        scales, normed_slope_TD = self.before_attention.weight, self.qkv.back(qkv_slope_TN)
        slope_TD, _, scales_slope_D, normed_TD = do.normed_back(x_TD, scales, eps, normed_slope_TD, slope_TD)
        add_gradient(scales, scales_slope_D)
        self.qkv.learn(normed_TD, qkv_slope_TN)
        return slope_TD

    def head_normed(self, raw_TN: Tensor) -> Tensor:
        """Queries and keys over the root mean square of each head (Qwen3)."""
        q, k = raw_TN.float().unflatten(1, (-1, self.shape.head_dim)).split(self.heads, 1)
        return torch.cat((self.attention.q_norm(q), self.attention.k_norm(k)), 1).flatten(1).bfloat16()

    def head_normed_back(self, raw_TN: Tensor, slope_TN: Tensor) -> None:
        """Replace the slope of what `head_normed` made by that of what it was made of."""
        scales = [norm.weight for norm in (self.attention.q_norm, self.attention.k_norm)]
        with torch.enable_grad():
            raw_TN = raw_TN.detach().requires_grad_()
            learning = [raw_TN, *(scale for scale in scales if scale.requires_grad)]
            slopes = torch.autograd.grad(self.head_normed(raw_TN), learning, slope_TN)
        slope_TN.copy_(slopes[0])
        for scale, slope in zip(learning[1:], slopes[1:], strict=True):
            add_gradient(scale, slope)


def add_gradient(weight: Tensor, gradient: Tensor) -> None:
    """Add to a weight's gradient where it learns."""
    if weight.requires_grad:
        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


class Embedded(Function):
    """Rows of the embeddings; `anchor` makes what follows learn, because weights are no inputs of these functions."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tokens_T: Tensor, weight_VD: nn.Parameter) -> Tensor:
        ctx.tokens_T, ctx.weight_VD = tokens_T, weight_VD
        return weight_VD.detach().index_select(0, tokens_T).float()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, None, None]:
        weight_VD = ctx.weight_VD
        if weight_VD.requires_grad:
            if weight_VD.grad is None:
                weight_VD.grad = no_gradient(weight_VD)
            weight_VD.grad.index_add_(0, ctx.tokens_T, slopes[0])
        return None, None, None


class Passed(Function):
    """One block."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, block: MixedBlock, cos_TE: Tensor, sin_TE: Tensor, spans: Spans) -> Tensor:
        out_TD, *made = block.forward(x_TD, cos_TE, sin_TE, spans)
        ctx.save_for_backward(x_TD, cos_TE, sin_TE, *made)
        ctx.block, ctx.spans = block, spans
        return out_TD

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, cos_TE, sin_TE, *made = ctx.saved_tensors
        return ctx.block.backward(slopes[0].contiguous(), x_TD, made, cos_TE, sin_TE, ctx.spans), None, None, None, None


class Normed(Function):
    """The norm before the head."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, scales_D: Tensor, eps: float, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x_TD)
        ctx.scales_D, ctx.eps, ctx.kernels = scales_D, eps, kernels
        return kernels.normed(x_TD, scales_D, eps)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        made = ctx.kernels.normed_back(*ctx.saved_tensors, ctx.scales_D, ctx.eps, slopes[0].contiguous(), None)
        add_gradient(ctx.scales_D, made[2])
        return made[0], None, None, None


class Labelled(Function):
    """Log-probabilities of labels, and entropies; going back, logits make room for their slopes."""

    @staticmethod
    def forward(
        ctx: Any, hidden_CD: Tensor, labels_C: Tensor, temperature: float, head: Product, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        logits_CV = head(hidden_CD)
        logprobs_C, entropies_C, logs_C = kernels.label_logprobs(logits_CV, labels_C, temperature)
        ctx.save_for_backward(hidden_CD, labels_C, logits_CV, logs_C)
        ctx.temperature, ctx.head, ctx.kernels = temperature, head, kernels
        ctx.mark_non_differentiable(entropies_C)
        return logprobs_C, entropies_C

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        hidden_CD, labels_C, slope_CV, logs_C = ctx.saved_tensors
        ctx.kernels.label_logprobs_back(slope_CV, labels_C, slopes[0].contiguous(), logs_C, ctx.temperature)
        ctx.head.learn(hidden_CD, slope_CV)
        return ctx.head.back(slope_CV), None, None, None, None
