"""Thinkery beside what users would pick instead: the same work, side by side, on this machine.

make bench                              every row      →  bench/results/peers.json
python -m bench.peers sample-64 sft     some rows; the others in the file stay as they are

work        what everybody does: prompts, lengths, how often
worker      one contender in a process of its own, which waits for "go" and answers with seconds and memory
ours, hf, trl, vllm, openvino, llamacpp    the contenders
gguf        the model as a file in the number formats that contenders are given
match       contenders take turns; medians
same        equal outputs, log-probabilities and gradients
table       rows with their bars
"""
