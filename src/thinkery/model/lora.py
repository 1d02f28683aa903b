"""Low-rank adapters (LoRA, 2106.09685): W' = W + α/r · B A, where W stays as it is and only A and B learn.

    adapt(network, Lora(rank=16), seed=7)      # A is drawn, B is zero: nothing has changed yet
    …
    save_adapter(folder, network, Lora(rank=16))      # as PEFT reads it
    save_model(folder, merged(network), tokenizer)    # a model like any other

An adapted layer multiplies by A and B one after the other; its `weight` is W', which engines pack and sample from.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from thinkery.config import Config
from thinkery.errors import ConfigError
from thinkery.model.hf import write_json

N = TypeVar("N", bound=nn.Module)


class Lora(Config):
    """Which layers get adapters, and how large these are."""

    rank: int = Field(default=16, ge=1)
    """Rank of the change to a matrix, r."""
    alpha: float = Field(default=32.0, gt=0)
    """The change counts α / r times."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Last names of the linear layers that are adapted."""


class LoraLinear(nn.Module):
    """A frozen linear layer and the two matrices of its change."""

    def __init__(self, base: nn.Linear, cfg: Lora, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.scale = cfg.alpha / cfg.rank
        reach = 1 / math.sqrt(base.in_features)  # as PEFT draws it
        drawn = torch.empty(cfg.rank, base.in_features).uniform_(-reach, reach, generator=generator)
        self.lora_A = nn.Parameter(drawn.to(base.weight))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, cfg.rank))

    @property
    def weight(self) -> Tensor:
        """W', of the shape of W."""
        return torch.addmm(self.base.weight, self.lora_B, self.lora_A, alpha=self.scale)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's bias, which does not learn."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)


def adapt(network: nn.Module, cfg: Lora, *, seed: int) -> None:
    """Freeze the network and give adapters to its target layers; ConfigError where none has such a name, or where one
    shares its weight with the embedding."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in cfg.targets
    ]
    if not found:
        names = {n.rpartition(".")[2] for n, layer in network.named_modules() if isinstance(layer, nn.Linear)}
        hint = f"its linear layers are called {', '.join(sorted(names))}"
        raise ConfigError("no layer to adapt", where="policy.lora.targets", found=", ".join(cfg.targets), hint=hint)
    embeddings = {id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Embedding)}
    if shared := [name for name in found if id(network.get_submodule(name).weight) in embeddings]:
        raise ConfigError(
            "a layer shares its weight with the embedding",
            where="policy.lora.targets",
            found=", ".join(shared),
            hint="leave it out: changed alone it would no longer be the embedding's, as config.json says it is",
        )
    for name in found:
        layer: Any = network.get_submodule(name)
        network.set_submodule(name, LoraLinear(layer, cfg, generator))


def adapters(network: nn.Module) -> dict[str, Tensor]:
    """The matrices that learn, by the name of their parameter."""
    return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def sharing_frozen(network: N) -> N:
    """A copy that has adapters of its own and the frozen weights in common."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters() if not p.requires_grad})


@torch.no_grad()
def merged(network: N) -> N:
    """A copy with plain layers of the weights W'; what was not adapted is shared."""
    plain = sharing_frozen(network)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, LoraLinear):
            linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            linear.weight = nn.Parameter(layer.weight)
            linear.bias = layer.base.bias
            plain.set_submodule(name, linear)
    return plain


def plain(network: N) -> N:
    """The network itself, or a copy with its adapters merged in."""
    adapted = any(isinstance(layer, LoraLinear) for layer in network.modules())
    return merged(network) if adapted else network


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights by the names they have without adapters, which are merged in."""
    return dict(plain(network).named_parameters())


def save_adapter(folder: Path, network: nn.Module, cfg: Lora) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as `peft.PeftModel.from_pretrained` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": None,
            "r": cfg.rank,
            "lora_alpha": cfg.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(cfg.targets),
            "inference_mode": True,
        },
    )
    plainly = {name.removeprefix("inner."): t for name, t in adapters(network).items()}  # as transformers calls them
    tensors = {f"base_model.model.{name}.weight": t.contiguous().cpu() for name, t in plainly.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
