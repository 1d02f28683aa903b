"""A model of Qwen2-1.5B's shape with random weights and SmolLM2's tokenizer: `python -m bench.gpu FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bench.peers.__main__ import located
from thinkery.model.hf import save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer


def main() -> None:
    """Write the folder."""
    tokenizer = Tokenizer.load(located("smollm2"))
    network = Transformer(
        Shape(
            family="qwen2",
            vocab_size=tokenizer.vocab_size,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            head_dim=128,
            rope_theta=1e6,
            attention_bias=True,
        )
    )
    network.initialise(torch.Generator().manual_seed(0))
    save_model(Path(sys.argv[1]), network, tokenizer)


if __name__ == "__main__":
    main()
