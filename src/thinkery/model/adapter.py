"""Any other causal language model of transformers, behind the interface of our own Transformer.

It pads where the Transformer packs, and knows no `attend`: an engine that samples from it recomputes or uses
the model's own cache. Dropout stays off always, so that the trainer sees what the sampler saw.

Shapes: T tokens of all sequences, B sequences, L longest, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from thinkery.errors import InputError
from thinkery.model.transformer import Shape


class Adapted(nn.Module):
    """A transformers model as a network: `packed` gives hidden states, `logits` the head."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.inner = model.eval()
        self.shape = _shape(model)
        self.longest = self.shape.max_position_embeddings if _changes(model.config.get_text_config()) else 0
        self._head = _Head(model)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Adapted:
        """Read a model folder; raises InputError when transformers does not know the architecture, when weights
        do not fit it, or when it is not a causal decoder with a linear head."""
        check_architecture(folder)
        try:
            with quiet():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=dtype,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise _unloadable(folder, str(error)) from error
        model, report = loaded
        _check_report(report, folder)
        network = cls(model)
        try:
            network._check(folder)
        except RuntimeError as error:  # some architectures compute in float32 alone
            raise InputError(
                "this model cannot be computed here",
                where=str(folder),
                found=f"in {str(dtype).removeprefix('torch.')}: {str(error).strip().splitlines()[0]}",
            ) from error
        return network

    def save(self, folder: Path, *, shard_bytes: int) -> None:
        """Write config and weights as transformers does."""
        with quiet():
            self.inner.save_pretrained(folder, max_shard_size=shard_bytes)

    def packed(self, tokens_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """hidden_TD of sequences laid end to end, each causal and blind to the others."""
        B, L = len(lengths), max(lengths)
        if 0 < self.longest < L:
            hint = f"at most {self.longest}: a smaller max_tokens, or a model with a longer context"
            raise InputError("a sequence is longer than this model reads", found=f"{L} tokens", hint=hint)
        slots_T = torch.cat([torch.arange(n) + i * L for i, n in enumerate(lengths)]).to(tokens_T.device)
        tokens_BL = tokens_T.new_zeros(B * L).index_copy(0, slots_T, tokens_T).view(B, L)
        mask_BL = tokens_T.new_zeros(B * L).index_fill(0, slots_T, 1).view(B, L)
        # Padding is on the right, where a causal model cannot look, so positions count from 0 by default.
        hidden_BLD = self.inner.base_model(tokens_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
        return hidden_BLD.reshape(B * L, -1).index_select(0, slots_T)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Next-token logits logits_TV."""
        return self._head(hidden_TD)

    def train(self, mode: bool = True) -> Adapted:
        """Does nothing: there is no training mode, which would only switch dropout on."""
        return self

    @torch.no_grad()
    def _check(self, folder: Path) -> None:
        """That what `packed` and `logits` compute is the model itself, and that it looks only back."""
        tokens = torch.arange(6) % self.shape.vocab_size
        other = torch.cat([tokens[:-1], tokens[:1]])
        logits, changed = (self.logits(self.packed(t, [6])) for t in (tokens, other))
        whole = self.inner(tokens[None], use_cache=False).logits[0]
        tolerance = 1e-3 * float(whole.abs().max())
        if not torch.allclose(logits[:-1], changed[:-1], rtol=0, atol=tolerance):
            raise InputError("the model is not causal", where=str(folder), found=type(self.inner).__name__)
        if not torch.allclose(logits, whole, rtol=0, atol=tolerance):
            raise InputError(
                "this architecture computes its logits in a way that is not supported",
                where=str(folder),
                found=type(self.inner).__name__,
            )


class _Head:
    """The map from hidden states to logits, with what some families do after the linear layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._model: Any = model
        self._cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        self._scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
        self._scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite

    def __call__(self, hidden_TD: Tensor) -> Tensor:
        # Asked for each time, since an adapter may have taken the layer's place.
        logits_TV = self._model.get_output_embeddings()(hidden_TD) * self._scale
        return logits_TV if self._cap is None else torch.tanh(logits_TV / self._cap) * self._cap


def check_architecture(folder: Path) -> None:
    """Raise InputError for a folder whose configuration transformers knows no causal language model for."""
    _architecture(folder)


def read_shape(folder: Path) -> Shape:
    """The shape that a folder's configuration declares, without reading the weights."""
    config = _architecture(folder)
    with quiet(), torch.device("meta"):
        return _shape(AutoModelForCausalLM.from_config(config))


def _architecture(folder: Path) -> PretrainedConfig:
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unloadable(folder, str(error)) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unloadable(folder, f"model_type {config.model_type!r}, which is no causal language model")
    return config


def _unloadable(folder: Path, found: str) -> InputError:
    return InputError(
        "transformers cannot load this model",
        where=str(folder),
        found=found.strip().splitlines()[0],
        hint="a causal language model with safetensors weights that needs no remote code",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers, and without its warnings: what matters of them, we say."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _check_report(report: dict[str, Any], folder: Path) -> None:
    """transformers fills missing weights with noise; we refuse instead."""
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    found = {kind.removesuffix("_keys"): sorted(map(str, report[kind])) for kind in kinds if report[kind]}
    if found:
        raise InputError(
            "the weights are not those of the architecture in config.json",
            where=str(folder),
            found="; ".join(f"{kind}: {', '.join(names[:8])}" for kind, names in found.items()),
            hint="take config.json and weights of one and the same model",
        )


def _output_layer(model: PreTrainedModel) -> nn.Linear:
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise InputError("the model has no linear language-model head", found=type(model).__name__)
    return layer


def _shape(model: PreTrainedModel) -> Shape:
    """The numbers callers ask of any network; those an architecture does not have are 0."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    width = config.hidden_size
    return Shape(
        family=model.config.model_type,
        vocab_size=_output_layer(model).out_features,
        hidden_size=width,
        intermediate_size=getattr(config, "intermediate_size", None) or 0,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or width // max(heads, 1),
        max_position_embeddings=_positions(config),
        tie_word_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
    )


def _positions(config: PretrainedConfig) -> int:
    """The longest sequence that is sampled; 0 for no limit."""
    declared = getattr(config, "max_position_embeddings", None) or 0
    if not (rope := _changes(config)):
        return declared
    first = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return min(declared, first or declared)


def _changes(config: PretrainedConfig) -> dict[str, Any]:
    """The scaling of a model that takes other frequencies for a whole batch once its longest sequence passes the length
    that the model was first trained with: others beside it would change, and sampler and trainer differ."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return rope if rope.get("rope_type", rope.get("type")) in ("longrope", "dynamic") else {}
