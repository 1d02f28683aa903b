"""What a recipe will need on this machine: memory, tokens, time and disk of every step, before it starts.

Arithmetic on the shape of the models and the settings of the steps, with what `recipes/probe.py` measures in a second
or two. P is the number of parameters; everything is float32, so 4 bytes each.

    learning    memory 16 P (weights, gradients, two moments) + 4 P for a reference + activations of one micro-batch
                flops  6 P a token forward and back, 2 P more where a reference scores it, attention on top
    sampling    memory 8 P (weights, and packed once more) + keys and values of everything in flight
                a step of b samples takes the longer of 2 P b flops and reading 4 P bytes, and reads the cache
    either      of a narrow model as fast as a random one of its shape has been just now
    disk        4 P a model, 16 P a checkpoint of which two are kept, and every sample as compressed text

What nobody can know before is assumed: completions average `fill` of the longest allowed, filters let everything pass,
prompts that nothing is known of and documents of a corpus have PROMPT_TOKENS. So take times as right within a factor of
two or three. `bench/plan.py` compares plans with runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean

from thinkery.engine import EngineConfig
from thinkery.model.gguf import read_shape, read_tokenizer
from thinkery.model.hf import FAMILIES, read_config, shape_from_config
from thinkery.model.locate import EMBEDDED, locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape
from thinkery.pipeline.step import Step, ordered
from thinkery.stages.cold_data import ColdData
from thinkery.stages.collect import Collect
from thinkery.stages.common import templates_of
from thinkery.stages.curate import Curate
from thinkery.stages.evaluate import Exam
from thinkery.stages.fetch import Fetch
from thinkery.stages.imitate import Imitate
from thinkery.stages.preference import Labels, Pairs
from thinkery.stages.pretrain import Corpus, Crawl, Fresh, Pretrain, fresh_shape
from thinkery.stages.published import Published, PublishedPairs, fitting
from thinkery.stages.reinforce import Reinforce
from thinkery.stages.sensitivity import Sensitivity
from thinkery.tasks.sources import load_tasks
from thinkery.train.optim import LearnerConfig, PolicyConfig
from thinkery.train.preference import RewardModelConfig

PROMPT_TOKENS = 128
TEMPLATE_TOKENS = 16
"""What a chat template puts around a question."""
LETTERS = 4.0
"""Letters of a token, for models whose tokenizer is not on this machine."""
LOOKED_AT = 64
"""Tasks whose length is looked at."""
PROCESS_BYTES = 1.3e9
"""What Python, torch, transformers and what they keep for themselves while they work take besides any model."""
KERNELS = 30
"""Operations of one layer for one step of sampling; learning runs about three times as many."""
SAMPLE_BYTES = 300
"""Scores, reasons and names of one recorded sample, compressed; its text comes on top."""
RL_BYTES = 24
"""Memory of RL per parameter: the 20 of learning with a reference, and a sixth for activations and the cache."""
KNOWN = {
    "Qwen/Qwen2.5-Math-1.5B": Shape("qwen2", 151936, 1536, 8960, 28, 12, 2, 128, attention_bias=True),
    "Qwen/Qwen2.5-Math-7B": Shape(
        "qwen2", 152064, 3584, 18944, 28, 28, 4, 128, tie_word_embeddings=False, attention_bias=True
    ),
    "Qwen/Qwen2.5-32B": Shape(
        "qwen2", 152064, 5120, 27648, 64, 40, 8, 128, tie_word_embeddings=False, attention_bias=True
    ),
}
"""The shapes that the hub gives for the models of shipped recipes: a plan should not cost a download."""
TOO_SMALL = 7e9
"""RL on a dense base of this size brought the paper's authors no gain on AIME (v2 §4.3); they distilled instead."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine does, as measured: arithmetic at a model's width, memory traffic, the cost of one operation."""

    flops: float
    bandwidth: float
    latency_s: float
    memory: float
    disk: float
    bfloat16_flops: float = 0.0
    """Arithmetic in bfloat16; 0 where it is not faster."""
    learning_flops: float = 0.0
    """What learning reaches, all its operations included; 0 where products alone were measured."""
    step_s: float = 0.0
    """Seconds of a step of sampling, whatever is in flight; 0 where it was not measured."""
    sample_s: float = 0.0
    """Seconds that every sample in flight adds to a step."""

    def multiplies(self, dtype: str) -> tuple[float, int]:
        """Operations a second in a format, and its bytes a number; "fastest" and "model" as the engine means them."""
        if self.bfloat16_flops and dtype in ("bfloat16", "fastest"):
            return self.bfloat16_flops, 2
        return self.flops, 4


@dataclass(frozen=True, slots=True)
class Need:
    """What one step needs; `what` is learning, sampling or nothing much."""

    step: str
    what: str = "-"
    parameters: int = 0
    memory: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The needs of every step in order, and what a person should know before starting."""

    needs: list[Need]
    warnings: list[str]
    largest: float
    """Parameters of the largest model that RL with a reference fits into this machine's memory."""

    @property
    def memory(self) -> float:
        """The most that any step holds."""
        return max(need.memory for need in self.needs)

    @property
    def seconds(self) -> float:
        """All steps, one after the other."""
        return sum(need.seconds for need in self.needs)

    @property
    def disk(self) -> float:
        """What stays when all is done, and two checkpoints of the largest model on the way."""
        return sum(need.disk for need in self.needs) + 32 * max(need.parameters for need in self.needs)


def plan(steps: Mapping[str, Step], machine: Callable[[Shape], Machine], *, fill: float = 0.5) -> Plan:
    """Estimate every step; `machine(shape)` measures for a model's shape, as `probe` does. Loads tasks, to count."""
    graph = ordered(steps)
    machines: dict[tuple[int, int], Machine] = {}
    needs: list[Need] = []
    rows: dict[str, int] = {}
    prompts: dict[str, float] = {}
    count = token_counter(graph)
    for step in graph:
        rows[step.name] = rows_of(step, rows)
        prompts[step.name] = prompt_tokens(step, prompts, count)
        shape = shape_of(step)
        if shape is None:
            needs.append(Need(step.name))
            continue
        width = (shape.hidden_size, shape.intermediate_size)
        if width not in machines:
            machines[width] = machine(shape)
        needs.append(need_of(step, shape, machines[width], rows, prompts[step.name], fill))
    here = next(iter(machines.values()))
    return Plan(needs, warnings(graph, needs, here), (here.memory - PROCESS_BYTES) / RL_BYTES)


def need_of(step: Step, shape: Shape, machine: Machine, rows: Mapping[str, int], prompt: float, fill: float) -> Need:
    """What one step needs, by the kind of its settings."""
    P, cfg = parameters(shape), step.config
    if isinstance(cfg, Fetch):
        return Need(step.name, "-", P, disk=4 * P if cfg.model.endswith(".gguf") or cfg.model == "smollm2" else 0)
    if isinstance(cfg, Fresh):
        return Need(step.name, "-", P, disk=4 * P)
    if isinstance(cfg, Reinforce):
        return reinforce_need(step.name, cfg, shape, machine, prompt, fill)
    if isinstance(cfg, Pretrain):
        read = rows[step.inputs["corpus"].name] - cfg.held_out
        return learning_need(step.name, shape, cfg.sft.policy, machine, read * PROMPT_TOKENS, read / cfg.sft.batch)
    if isinstance(cfg, Imitate | RewardModelConfig):
        corpus = step.inputs["corpus" if isinstance(cfg, Imitate) else "data"]
        loop, each = (cfg.sft, 1) if isinstance(cfg, Imitate) else (cfg, 2)  # a pair is two sequences
        seen = loop.epochs * rows[corpus.name]
        tokens = each * seen * min(loop.max_tokens, row_tokens(corpus, prompt, fill))
        return learning_need(step.name, shape, loop.policy, machine, tokens, seen / loop.batch)
    if isinstance(cfg, ColdData | Curate | Pairs | Labels | Exam):
        questions, attempts, longest = questions_of(step, rows), samples_of(cfg), cfg.sampling.max_tokens
        return sampling_need(step.name, shape, machine, questions, attempts, longest, prompt, fill, cfg.engine)
    return Need(step.name)


def reinforce_need(name: str, cfg: Reinforce, shape: Shape, machine: Machine, prompt: float, fill: float) -> Need:
    """Sampling and learning share the weights, so their memory adds up only beyond them."""
    g, P = cfg.grpo, parameters(shape)
    questions = g.updates * g.questions_per_update
    samples = questions * g.group_size
    longest = max(tokens for start, tokens in g.max_tokens if start < g.updates)
    sampled = sampling_need(name, shape, machine, questions, g.group_size, longest, prompt, fill, cfg.engine)
    tokens = questions * prompt + samples * fill * longest  # a group's prompt is learnt from once
    learnt = learning_need(name, shape, g.policy, machine, tokens, g.updates, reference=g.beta > 0)
    memory = max(learnt.memory, sampled.memory + (16 if g.beta > 0 else 12) * P)
    seconds = sampled.seconds + learnt.seconds
    if g.advantage == "gae":  # PPO's critic is a second model that learns
        memory, seconds = memory + 16 * P, seconds + 8 * P * tokens / machine.flops
    return Need(name, "sampling and learning", P, memory, tokens, seconds, sampled.disk + learnt.disk)


def learning_need(
    name: str,
    shape: Shape,
    policy: LearnerConfig,
    machine: Machine,
    tokens: float,
    updates: float,
    *,
    reference: bool = False,
) -> Need:
    """What training on `tokens` in `updates` takes; the model it makes is on the disk afterwards."""
    P, T = parameters(shape), policy.micro_batch_tokens
    memory = PROCESS_BYTES + (20 if reference else 16) * P + activation_bytes(shape, policy)
    memory += 4 * P if offloads(policy) else 0  # the host's copy of the weights, which lies beside the others here
    passes = (4 if recomputes(policy) else 3) / 3  # the backward pass is as long as two forward passes
    flops = tokens * (passes * (6 * P + attention_flops(shape, PROMPT_TOKENS)) + (2 * P if reference else 0))
    batches = max(updates, tokens / T)
    if machine.learning_flops:
        seconds = flops / machine.learning_flops
    else:
        seconds = (
            flops / machine.multiplies(policy.dtype)[0]
            + batches * 3 * KERNELS * shape.num_hidden_layers * machine.latency_s
        )
    return Need(name, "learning", P, memory, tokens, seconds, 4.0 * P)


def sampling_need(
    name: str,
    shape: Shape,
    machine: Machine,
    questions: float,
    attempts: int,
    longest: int,
    prompt: float,
    fill: float,
    engine: EngineConfig,
) -> Need:
    """What sampling takes with continuous batching; a question's prompt is computed once."""
    P, samples, length = parameters(shape), questions * attempts, prompt + fill * longest
    speed, size = machine.multiplies(engine.dtype)
    per_token = cache_bytes(shape) * size // 4
    room = engine.kv_memory * 2**30 / (per_token * (prompt + longest))
    batch = max(1.0, min(engine.max_batch, samples, room))
    memory = PROCESS_BYTES + 8 * P + batch * per_token * (prompt + longest)
    if machine.step_s:
        step_s = machine.step_s + batch * machine.sample_s
    else:
        step_s = max(2 * P * batch / speed, size * P / machine.bandwidth)
        step_s += KERNELS * shape.num_hidden_layers * machine.latency_s
    step_s += batch * length * per_token / machine.bandwidth
    tokens = samples * fill * longest
    seconds = tokens / batch * step_s + questions * prompt * 2 * P / speed
    return Need(name, "sampling", P, memory, tokens, seconds, samples * (SAMPLE_BYTES + fill * longest * 1.5))


def parameters(shape: Shape) -> int:
    """How many numbers a decoder of this shape has, norms and biases left out."""
    D, E = shape.hidden_size, shape.head_dim
    attention = 2 * D * E * (shape.num_attention_heads + shape.num_key_value_heads)
    layers = shape.num_hidden_layers * (attention + 3 * D * shape.intermediate_size)
    return layers + shape.vocab_size * D * (1 if shape.tie_word_embeddings else 2)


def activation_bytes(shape: Shape, policy: LearnerConfig) -> float:
    """What a backward pass must remember of one micro-batch: per layer two norms, two residuals, projections and the
    feed-forward's four products; and three copies of a chunk of logits. Where activations are recomputed, these are of
    one layer, and every layer's input."""
    tokens = policy.micro_batch_tokens
    D, E = shape.hidden_size, shape.head_dim
    heads = 3 * E * (shape.num_attention_heads + shape.num_key_value_heads)
    layer = 5 * D + heads + 4 * shape.intermediate_size
    numbers = shape.num_hidden_layers * D + layer if recomputes(policy) else shape.num_hidden_layers * layer
    return 4.0 * tokens * numbers + 12.0 * min(policy.logits_chunk, tokens * shape.vocab_size)


def recomputes(policy: LearnerConfig) -> bool:
    """Whether backward passes compute every block again."""
    return isinstance(policy, PolicyConfig) and policy.activations == "recomputed"


def offloads(policy: LearnerConfig) -> bool:
    """Whether the optimizer moves a copy of the weights in the host's memory."""
    return isinstance(policy, PolicyConfig) and policy.offload == "cpu" and policy.lora is None


def cache_bytes(shape: Shape) -> int:
    """Keys and values of one token."""
    return 8 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim


def attention_flops(shape: Shape, length: float) -> float:
    """Forward and back through causal attention, for one token that sees half of `length`."""
    return 6 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * length


def shape_of(step: Step) -> Shape | None:
    """The shape of the model a step works with: fetched, made, or its first model input's; None without a model."""
    if isinstance(step.config, Fetch):
        return fetched_shape(step.config.model)
    if isinstance(step.config, Fresh):
        return fresh_shape(step.config)
    models = (read for read in step.inputs.values() if read.kind == "Model")
    return next((shape for read in models if (shape := shape_of(read))), None)


def fetched_shape(name: str) -> Shape:
    """The shape of a model by name, without reading its weights; a hub model that is not `KNOWN` is fetched first."""
    if name in KNOWN:
        return KNOWN[name]
    found = locate(name)
    if found.suffix == ".gguf":
        return _file_shape(found, found.stat().st_mtime_ns)
    config = read_config(found)
    if config.get("model_type") not in FAMILIES:
        from thinkery.model.adapter import read_shape as adapted_shape  # transformers, slow to import

        return adapted_shape(found)
    return shape_from_config(config, where=str(found / "config.json"))


@lru_cache(maxsize=8)
def _file_shape(path: Path, changed: int) -> Shape:
    """The shape in a .gguf file that was changed last at `changed`; its reader goes through all words, for seconds."""
    return read_shape(path)


def rows_of(step: Step, rows: Mapping[str, int]) -> int:
    """The most rows that a step can leave, given those of the steps before it; 0 for what makes no dataset."""
    cfg = step.config
    if isinstance(cfg, Collect):
        return len(load_tasks(cfg.sources, purpose=cfg.purpose))
    if isinstance(cfg, (Corpus, Crawl)):
        return cfg.documents
    if isinstance(cfg, ColdData):
        return questions_of(step, rows) * min(cfg.keep, cfg.samples)
    if isinstance(cfg, Curate):
        general = min(cfg.general, rows[step.inputs["general"].name]) if "general" in step.inputs else 0
        return questions_of(step, rows) * min(cfg.keep, cfg.samples) + general
    if isinstance(cfg, Published):
        found = sum(1 for _ in fitting(cfg)) * (1 if isinstance(cfg, PublishedPairs) else 2)
        return found if cfg.limit is None else min(found, cfg.limit)
    if isinstance(cfg, Pairs):
        return questions_of(step, rows)
    return questions_of(step, rows) * cfg.answers if isinstance(cfg, Labels) else 0


def questions_of(step: Step, rows: Mapping[str, int]) -> int:
    """The questions that a sampling step asks."""
    count = rows[(step.inputs.get("tasks") or step.inputs["exam"]).name]
    return min(getattr(step.config, "prompts", count), count)


def samples_of(cfg: ColdData | Curate | Pairs | Labels | Exam) -> int:
    """The attempts at each question, under all templates together."""
    if isinstance(cfg, Sensitivity):
        return cfg.samples * len(templates_of(cfg.templates))
    return cfg.answers if isinstance(cfg, Pairs | Labels) else cfg.samples


def row_tokens(step: Step, prompt: float, fill: float) -> float:
    """The length of a conversation in a dataset that was sampled."""
    sampling = getattr(step.config, "sampling", None)
    return prompt + (fill * sampling.max_tokens if sampling else PROMPT_TOKENS)


def prompt_tokens(step: Step, prompts: Mapping[str, float], count: Callable[[str], float]) -> float:
    """The mean length of the questions that a step collects, or gets from the steps before it."""
    if isinstance(step.config, Collect):
        tasks = load_tasks(step.config.sources, purpose=step.config.purpose)
        some = tasks[:: max(1, len(tasks) // LOOKED_AT)]
        return TEMPLATE_TOKENS + fmean(count(task.prompt) for task in some) if some else PROMPT_TOKENS
    data = [prompts[read.name] for read in step.inputs.values() if read.kind == "Dataset"]
    return max(data, default=PROMPT_TOKENS)


def token_counter(graph: Sequence[Step]) -> Callable[[str], float]:
    """Counts tokens as the first model of the graph does, where its tokenizer is on this machine."""
    for step in graph:
        if isinstance(step.config, Fetch) and step.config.model not in KNOWN:
            found = locate(step.config.model)
            tokenizer = read_tokenizer(found) if found.suffix == ".gguf" else Tokenizer.load(found)
            return lambda text: len(tokenizer.encode(text))
    return lambda text: len(text) / LETTERS


def warnings(graph: list[Step], needs: list[Need], machine: Machine) -> list[str]:
    """What does not fit, with the setting to change, and bases too small to gain much from RL."""
    found = []
    for need in needs:
        if need.memory > machine.memory:
            found.append(
                f"{need.step} needs {need.memory / 1e9:.1f} GB of memory, {machine.memory / 1e9:.1f} are free: lower "
                "policy.micro_batch_tokens, engine.max_batch or engine.kv_memory, or take a smaller model"
            )
    if (disk := sum(n.disk for n in needs) + 32 * max(n.parameters for n in needs)) > machine.disk:
        found.append(f"the run needs {disk / 1e9:.1f} GB of disk, {machine.disk / 1e9:.1f} are free: use another --dir")
    bases = {s.config.model for s in graph if isinstance(s.config, Fetch)} - set(EMBEDDED)
    trained = [need for need, step in zip(needs, graph, strict=True) if isinstance(step.config, Reinforce)]
    if bases and any(need.parameters < TOO_SMALL for need in trained):
        found.append(
            "RL alone gained the paper's authors little on bases of 7B parameters and below; imitating a stronger "
            "model's samples (the distill step) gained much more"
        )
    return found
