"""TRL's GRPOTrainer and SFTTrainer: one optimizer step is one run.

options: micro (sequences in one pass), weights (float32 under bfloat16 autocast, or bfloat16 throughout), packing,
attention (as transformers names it), cache (of sampling), checkpointing (of activations).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from bench.peers.work import PROMPT_TOKENS, ROUNDS, Material, Work
from bench.peers.worker import Turns


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """GRPO or supervised updates."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    model = AutoModelForCausalLM.from_pretrained(
        material.folder,
        dtype=getattr(torch, options["weights"]),
        attn_implementation=options.get("attention", "sdpa"),
    )
    model = model.to(options["device"])
    tokenizer = AutoTokenizer.from_pretrained(material.folder)
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder,
            "per_device_train_batch_size": int(options["micro"]),
            "learning_rate": 1e-6,
            "lr_scheduler_type": "constant",
            "max_steps": ROUNDS,
            "use_cpu": options["device"] == "cpu",
            "bf16": True,
            "gradient_checkpointing": options.get("checkpointing") == "yes",
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 1000,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": 0,
        }
        make = grpo_trainer if work.kind == "grpo" else sft_trainer
        warm_up(model)
        trainer = make(model, tokenizer, work, material, common, options)
        tokens = counted(trainer) if work.kind == "sft" else lambda: work.tokens
        trainer.add_callback(OneStepPerTurn(turns, tokens))
        trainer.train()


def grpo_trainer(
    model: Any, tokenizer: Any, work: Work, material: Material, common: dict[str, Any], options: dict[str, str]
) -> GRPOTrainer:
    """Samples with transformers; no reference, as ours."""
    ends = LogitsProcessorList([EndsAt(work.lengths(), model.config.eos_token_id)])
    model.generate = partial(model.generate, logits_processor=ends)
    prompts = [tokenizer.decode(ids) for run in range(ROUNDS) for ids in material.prompts(work, run)]
    return GRPOTrainer(
        model=model,
        reward_funcs=vowels,
        args=GRPOConfig(
            **common,
            gradient_accumulation_steps=work.sequences // int(options["micro"]),
            num_generations=work.samples,
            max_completion_length=work.new_tokens,
            beta=0.0,
            shuffle_dataset=False,
            top_k=0,
            cache_implementation=options.get("cache"),
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
    )


def sft_trainer(
    model: Any, tokenizer: Any, work: Work, material: Material, common: dict[str, Any], options: dict[str, str]
) -> SFTTrainer:
    """Padded micro-batches of similar length, or packed ones."""
    texts = [text for run in range(ROUNDS) for text in sorted(material.texts(work, run), key=len)]
    packing = options.get("packing") == "yes"
    if packing:  # best-fit packing fills rows of 1024 tokens; a step takes as many rows as a run's texts need
        common["gradient_accumulation_steps"] = max(1, round(work.tokens / 1024 / int(options["micro"])))
    else:
        common["gradient_accumulation_steps"] = work.sequences // int(options["micro"])
    return SFTTrainer(
        model=model,
        args=SFTConfig(**common, max_length=1024, packing=packing, train_sampling_strategy="sequential"),
        train_dataset=Dataset.from_list([{"input_ids": text, "labels": text} for text in texts]),
        processing_class=tokenizer,
    )


def counted(trainer: SFTTrainer) -> Callable[[], int]:
    """How many tokens have been imitated since this was last asked; with packing, steps differ a little."""
    passed, step = [0], trainer.training_step

    def counting(model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        passed[0] += int(inputs["labels"].ne(-100).sum())
        return step(model, inputs, *rest)

    def since() -> int:
        found, passed[0] = passed[0], 0
        return found

    trainer.training_step = counting
    return since


def vowels(completions: list[str], **_: Any) -> list[float]:
    """The same reward as ours."""
    return [text.count("e") / max(1, len(text)) for text in completions]


def warm_up(model: Any) -> None:
    """One small pass of everything that a run needs."""
    tokens = torch.full((2, 64), 1000, device=model.device)
    model(tokens, labels=tokens).loss.backward()
    model.zero_grad()


class EndsAt(LogitsProcessor):
    """Sample i ends with its token number `lengths[i]`, and not before."""

    def __init__(self, lengths: list[int], eos: int) -> None:
        self.lengths, self.eos = torch.tensor(lengths), eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        last = self.lengths.to(scores.device) == input_ids.shape[1] - PROMPT_TOKENS + 1
        scores[:, self.eos] = -torch.inf
        scores[last] = -torch.inf
        scores[last, self.eos] = 0.0
        return scores


class OneStepPerTurn(TrainerCallback):
    """Waits before each optimizer step and reports after it."""

    def __init__(self, turns: Turns, tokens: Callable[[], int]) -> None:
        self.turns, self.tokens, self.runs, self.began = turns, tokens, iter(turns), 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin when told to; the process ends when nothing more is asked for."""
        if next(self.runs, None) is None:
            os._exit(0)
        self.began = self.turns.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The step's seconds: sampling, judging, training, optimizer."""
        self.turns.done(self.turns.now() - self.began, tokens=self.tokens())
