"""What the paper published (R1 v1 and v2), to stand in grey beside a run's own numbers and never among them."""

from __future__ import annotations

STAGES = ("base", "zero", "dev1", "dev2", "dev3", "r1")

RESULTS: dict[str, tuple[float | None, ...]] = {
    "AIME 2024 pass@1": (15.6, 77.9, 59.0, 74.0, 78.1, 79.8),
    "MATH-500 pass@1": (None, 95.9, 94.2, 95.9, 95.4, 97.3),
    "GPQA Diamond pass@1": (None, 75.8, 66.1, 70.7, 71.2, 71.5),
    "LiveCodeBench pass@1": (None, 50.0, 57.5, 63.5, 64.6, 65.9),
    "Codeforces percentile": (None, 80.4, 84.5, 90.5, 92.1, 96.3),
    "Codeforces rating": (None, 1444, 1534, 1687, 1746, 2029),
    "MMLU": (87.1, 88.8, 89.1, 91.2, 91.0, 90.8),
    "IF-Eval strict": (58.6, 46.6, 71.7, 72.0, 78.1, 83.3),
    "FRAMES": (None, 82.3, 78.5, 81.8, 81.9, 82.5),
    "AlpacaEval 2 LC": (None, 24.7, 50.1, 55.8, 62.1, 87.6),
    "ArenaHard": (None, 53.6, 77.0, 73.2, 75.6, 92.3),
}
"""DeepSeek-R1's stages, in percent unless named otherwise; None where nothing was published."""

DISTILLED_COLUMNS = ("AIME pass@1", "AIME cons@64", "MATH-500", "GPQA Diamond", "LiveCodeBench", "Codeforces rating")

DISTILLED: dict[str, tuple[float | None, ...]] = {
    "Qwen 1.5B": (28.9, 52.7, 83.9, 33.8, 16.9, 954),
    "Qwen 7B": (55.5, 83.3, 92.8, 49.1, 37.6, 1189),
    "Qwen 14B": (69.7, 80.0, 93.9, 59.1, 53.1, 1481),
    "Qwen 32B": (72.6, 83.3, 94.3, 62.1, 57.2, 1691),
    "Llama 8B": (50.4, 80.0, 89.1, 49.0, 39.6, 1205),
    "Llama 70B": (70.0, 86.7, 94.5, 65.2, 57.5, 1633),
    "Qwen 32B, RL without distilling": (47.0, 60.0, 91.6, 55.0, 40.2, None),
}
"""The distilled models, and reinforcement learning straight on the 32B base."""
