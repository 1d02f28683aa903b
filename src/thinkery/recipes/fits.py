"""Whether this machine can hold what a recipe trains: one clear error before any work, not in hour three.

`thinkery run` asks before its first step. It is the check that a step makes itself when it begins
(`train/held.py:require_memory`), with the parameters that the shape of its model has at least; so nothing is refused
here that the step would accept, were it to begin now. Left to the step are models whose shape is not known yet, and
other networks than our own decoder. Where engines are on a Ray cluster, what learns is on this machine all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from thinkery.engine import EngineConfig, require_int8_shape
from thinkery.errors import ThinkeryError
from thinkery.model.transformer import Shape
from thinkery.pipeline.step import Step
from thinkery.recipes.arithmetic import parameters
from thinkery.recipes.plan import own_shape
from thinkery.stages.fetch import Fetch
from thinkery.stages.imitate import Imitate
from thinkery.stages.pretrain import Fresh, Pretrain, fresh_shape
from thinkery.stages.reinforce import Reinforce, format_of, samples_here
from thinkery.train.held import copied_bytes, learns_on_gpu, require_memory
from thinkery.train.optim import LearnerConfig
from thinkery.train.preference import RewardModelConfig


def require_fitting(steps: Iterable[Step], ranks: int = 1) -> None:
    """Raise EnvironmentLacks for the first of these steps whose weights, gradients and moments do not fit, ConfigError
    for one that would sample a decoder in 8 bits whose products do not have them."""
    for step in steps:
        engine = getattr(step.config, "engine", None)
        if isinstance(engine, EngineConfig) and engine.quantization == "int8" and (shape := smallest_shape(step)):
            require_int8_shape(shape, engine)
        policy = learner_of(step)
        if policy and (least := least_parameters(step)):
            together, sampled = ranks if step.on_all_ranks else 1, sampled_bytes(step)
            copied = copied_bytes(policy, sampled) if samples_here(step.config) else 0
            require_memory(least, policy, where=f"step {step.name!r}", ranks=together, sampled=sampled, copied=copied)


def learner_of(step: Step) -> LearnerConfig | None:
    """How a step's weights learn; None where it trains nothing."""
    cfg = step.config
    if isinstance(cfg, Reinforce):
        return cfg.grpo.policy
    if isinstance(cfg, Imitate | Pretrain):
        return cfg.sft.policy
    return cfg.policy if isinstance(cfg, RewardModelConfig) else None


def sampled_bytes(step: Step) -> int:
    """Bytes of a number of the weights that a step's engines sample from, 0 where none do."""
    if not isinstance(step.config, Reinforce):
        return 0
    return format_of(step.config).itemsize if learns_on_gpu() else 4


def least_parameters(step: Step) -> int:
    """The fewest parameters that can learn in a training step, 0 where that is not known."""
    shape = smallest_shape(step)
    if shape and isinstance(step.config, RewardModelConfig):
        shape = replace(shape, tie_word_embeddings=True)  # whose output head, if it has one of its own, learns nothing
    return parameters(shape) if shape else 0


def smallest_shape(step: Step) -> Shape | None:
    """The shape of the smallest model that a step reads, or that it fetches or makes; None where one is not known."""
    if isinstance(step.config, Fresh):
        return fresh_shape(step.config)
    if isinstance(step.config, Fetch):
        with suppress(ThinkeryError):  # the step itself will say what is wrong
            return own_shape(step.config.model)
        return None
    shapes = [smallest_shape(read) for read in step.inputs.values() if read.kind == "Model"]
    known = [shape for shape in shapes if shape]
    return min(known, key=parameters, default=None) if len(known) == len(shapes) else None
