"""Our GRPO loss against TRL's own `GRPOTrainer._compute_loss`, on one tiny random Qwen2 and the same tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from thinkery.model.hf import load_model
from thinkery.train.batch import Example, pack
from thinkery.train.loss import Totals, advantages, grpo_loss
from thinkery.train.optim import PolicyConfig
from thinkery.train.policy import token_logprobs

LENGTHS = (6, 3, 8, 1)
PROMPT = 4
GAINS = (1.2, -0.8, 0.3, -1.5)
EPSILON, BETA, LONGEST = 0.2, 0.05, 8
TOTALS = Totals(responses=4, tokens=sum(LENGTHS), max_tokens=LONGEST)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Right-padded tensors as TRL takes them."""
    draw = torch.Generator().manual_seed(0)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {
        "prompt_ids": torch.randint(0, 256, (4, PROMPT), generator=draw),
        "prompt_mask": torch.ones(4, PROMPT, dtype=torch.long),
        "completion_ids": torch.randint(0, 256, mask.shape, generator=draw),
        "completion_mask": mask,
        "advantages": torch.tensor(GAINS),
        "old_per_token_logps": -5.5 + 0.5 * torch.randn(mask.shape, generator=draw),
        "ref_per_token_logps": -5.5 + 0.5 * torch.randn(mask.shape, generator=draw),
        "num_items_in_batch": mask.sum(),
    }


def theirs(folder: Path, out: Path, tensors: dict[str, torch.Tensor], **settings):
    """TRL's loss and gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and accelerate's own deprecations
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(out),
                per_device_train_batch_size=4,
                num_generations=4,
                beta=BETA,
                report_to=[],
                max_completion_length=LONGEST,
                use_cpu=True,
                gradient_checkpointing=False,
                epsilon=EPSILON,
                temperature=1.0,
                bf16=False,
                **{"use_bias_correction_kl": False, **settings},
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        loss = trainer._compute_loss(trainer.model, tensors)
        loss.backward()
    return loss.item(), {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


def ours(folder: Path, tensors: dict[str, torch.Tensor], **settings):
    """Our loss and gradient, packed."""
    network, _ = load_model(folder)
    examples = [
        Example(
            [*tensors["prompt_ids"][i].tolist(), *tensors["completion_ids"][i, :n].tolist()],
            learn_from=PROMPT,
            advantage=GAINS[i],
            old=tensors["old_per_token_logps"][i, :n].tolist(),
            reference=tensors["ref_per_token_logps"][i, :n].tolist(),
        )
        for i, n in enumerate(LENGTHS)
    ]
    total = torch.zeros(())
    for batch in pack(examples, max_tokens=20):
        logprobs_C, _ = token_logprobs(network, batch, 1.0, PolicyConfig())
        assert batch.old_C is not None
        loss, _ = grpo_loss(
            logprobs_C, batch.old_C, batch.reference_C, batch.advantages_C, batch.learnt, TOTALS, beta=BETA, **settings
        )
        total = total + loss
    total.backward()
    return total.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


PAIRS = {
    "grpo": ({"loss_type": "grpo"}, {"average": "response"}),
    "dapo": ({"loss_type": "dapo"}, {"average": "token"}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"average": "constant"}),
    "gspo": ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, {"ratio": "sequence"}),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.2},
        {"average": "token", "ratio": "clipped_weight", "clip_low": 1.0},
    ),
    "unbiased_kl": ({"loss_type": "grpo", "use_bias_correction_kl": True}, {"unbiased_kl": True}),
    "off_policy": ({"loss_type": "grpo", "off_policy_mask_threshold": 0.1}, {"off_policy_bound": 0.1}),
    "wide_clip": ({"loss_type": "grpo", "epsilon_high": 10.0}, {"clip_high": 10.0}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradient_are_those_of_trl(name, folder, tmp_path, tensors):
    their_settings, our_settings = PAIRS[name]
    their_loss, their_slope = theirs(folder, tmp_path / "trl", tensors, **their_settings)
    our_loss, our_slope = ours(folder, tensors, **our_settings)
    assert our_loss == pytest.approx(their_loss, abs=1e-5)
    assert their_slope.keys() == our_slope.keys()
    for parameter, slope in their_slope.items():
        torch.testing.assert_close(our_slope[parameter], slope, atol=1e-5, rtol=1e-4)


REWARDS = (0.3, 1.1, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5)


def test_leave_one_out_advantages_are_those_of_trl(folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and accelerate's own deprecations
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import RLOOConfig, RLOOTrainer

        trainer = RLOOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=lambda completions, **_: list(REWARDS),
            args=RLOOConfig(
                output_dir=str(tmp_path / "trl"),
                per_device_train_batch_size=8,
                num_generations=4,
                max_completion_length=2,
                beta=0.0,
                report_to=[],
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
        found = trainer._generate_and_score_completions([{"prompt": "a"}] * 4 + [{"prompt": "b"}] * 4)["advantages"]
    groups = torch.tensor(REWARDS).view(2, 4)
    torch.testing.assert_close(found.double(), torch.cat([advantages(group, "rloo") for group in groups]))
