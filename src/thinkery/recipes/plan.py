"""What a recipe will need on this machine: memory, tokens, time and disk of every step, before it starts.

Arithmetic on the shape of the models and the settings of the steps (`arithmetic.py`), with what `recipes/probe.py`
measures in a second or two. P is the number of parameters; weights are float32, so 4 bytes each, unless
`policy.weights` says otherwise.

    learning    memory what `held_bytes` says of the settings, 16 P by default (weights, gradients, two moments), 4 P
                for a reference, and activations of one micro-batch, or of the longest sequence where that is longer
                flops  6 P a token forward and back, 2 P more where a reference scores it, and attention on top
    sampling    memory 8 P (weights, and packed once more) + keys and values of everything in flight; each of several
                `processes` has all of that, beside the weights of the one that asks them
                a step of b samples takes 2 P b flops after reading 4 P bytes, and reads the cache; samples that are
                asked for together end with the longest of them
    judging     of answers to general prompts by reward models: 8 P for the two, and 2 P flops a token that they read
    either      of a narrow model as fast as a random one of its shape has been just now, of a wide one at a share of
                the speed of its products
    disk        4 P a model, 12 P a checkpoint of which three may be kept (weights and two moments, 4 P more with a
                reference), half of both where weights are bfloat16, and every sample as compressed text

Several ranks (`--procs`) or processes share this machine's processors: memory is that of all of them, time that of one.
What nobody can know before is how long answers are and how many rows pass the filters. A recipe may say what it expects
(`expected`), as `tiny` and `smollm2-puzzles` do; otherwise completions average `fill` of the longest allowed,
everything passes, and a time is right within a factor of two or three. Prompts that nothing is known of and documents
of a corpus have PROMPT_TOKENS. Times and memory are those of the processor and of the built-in engine, also where a
GPU, vLLM or a Ray cluster would do the work (warnings say so). Left out are judging by rules, models that edit or judge
data, a pool's and a preflight's samples, and `grpo.flops`. `bench/plan.py` compares plans with runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean

from thinkery.engine import EngineConfig
from thinkery.model.gguf import read_shape, read_tokenizer
from thinkery.model.hf import FAMILIES, read_config, shape_from_config
from thinkery.model.locate import EMBEDDED, locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape
from thinkery.pipeline.checkpoint import KEPT
from thinkery.pipeline.step import Step, ordered
from thinkery.recipes.arithmetic import (
    activation_bytes,
    cache_bytes,
    checkpoint_bytes,
    in_format,
    learner_bytes,
    learning_flops,
    micro_batches,
    parameters,
    weight_bytes,
)
from thinkery.recipes.expected import Expected
from thinkery.stages.align import Align
from thinkery.stages.cold_data import ColdData
from thinkery.stages.collect import Collect
from thinkery.stages.common import templates_of
from thinkery.stages.curate import Curate
from thinkery.stages.direct import Direct
from thinkery.stages.evaluate import Exam
from thinkery.stages.fetch import Fetch
from thinkery.stages.imitate import Imitate
from thinkery.stages.preference import Labels, Pairs
from thinkery.stages.pretrain import Corpus, Crawl, Fresh, Pretrain, fresh_shape
from thinkery.stages.published import Published, PublishedPairs, fitting
from thinkery.stages.reinforce import Reinforce
from thinkery.stages.sensitivity import Sensitivity
from thinkery.tasks.sources import load_tasks
from thinkery.train.grpo import Grpo
from thinkery.train.held import held_bytes, learns_on_gpu, parts_of
from thinkery.train.mixed import learns_compiled
from thinkery.train.optim import LearnerConfig, PolicyConfig
from thinkery.train.preference import RewardModelConfig

PROMPT_TOKENS = 128
ANSWER_TOKENS = 8
"""A gold answer in its box."""
TEMPLATE_TOKENS = 16
"""What a chat template puts around a question."""
LETTERS = 4.0
"""Letters of a token, for models whose tokenizer is not on this machine."""
LOOKED_AT = 64
"""Tasks whose length is looked at."""
PROCESS_BYTES = 1.1e9
"""What Python, torch, transformers and what they keep for themselves while they work take besides any model: with it
the plans of two runs are 1 % below and 21 % above what they held (`bench/results/plan.json`)."""
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
    learns: float = 1.0
    """Share of the products' speed that learning has in all, where products alone were measured."""
    samples: float = 1.0
    """The same of sampling, prompts too."""
    step_s: float = 0.0
    """Seconds of a step of sampling, whatever is in flight; 0 where it was not measured."""
    sample_s: float = 0.0
    """Seconds that every sample in flight adds to a step."""
    read_s: float = 0.0
    """Seconds that every token which a sample sees adds to that."""

    def multiplies(self, dtype: str) -> tuple[float, int]:
        """Operations a second in a format, and its bytes a number; "fastest" and "model" as the engine means them."""
        return in_format(dtype, self.flops, self.bfloat16_flops)


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
    checkpoint: float = 0.0
    """Bytes of one of its checkpoints, which are gone when it has ended."""


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
        """What stays when all is done, and the checkpoints on the way."""
        return disk_of(self.needs)


def plan(
    steps: Mapping[str, Step],
    machine: Callable[[Shape], Machine],
    *,
    expected: Expected | None = None,
    fill: float = 0.5,
    ranks: int = 1,
) -> Plan:
    """Estimate every step; `machine(shape)` measures for a model's shape, as `probe` does. Loads tasks, to count.

    Training steps work on so many `ranks`, all on this machine.
    """
    expected, graph = expected or Expected(), ordered(steps)
    machines: dict[tuple[int, ...], Machine] = {}
    needs: list[Need] = []
    rows: dict[str, int] = {}
    prompts: dict[str, float] = {}
    means: dict[str, float] = {}
    lengths: dict[str, tuple[float, float]] = {}
    count = token_counter(graph)
    for step in graph:
        rows[step.name] = round(rows_of(step, rows) * expected.kept.get(step.name, 1.0))
        prompts[step.name] = prompt_tokens(step, prompts, count)
        means[step.name] = mean_completion(step, expected, fill)
        lengths[step.name] = row_tokens(step, prompts[step.name], means[step.name], expected)
        shape = shape_of(step)
        if shape is None:
            needs.append(Need(step.name))
            continue
        size = size_of(shape)
        if size not in machines:
            machines[size] = machine(shape)
        together = ranks if step.on_all_ranks else 1
        prompt, mean = prompts[step.name], means[step.name]
        learnt = expected.learnt.get(step.name, 1.0)
        needs.append(need_of(step, shape, machines[size], rows, prompt, mean, lengths, together, learnt=learnt))
    here = next(iter(machines.values()), None)
    if here is None:
        return Plan(needs, [], 0.0)
    unknown = [f"how many rows {step.name} leaves is not known: steps that read it are planned as if it left none"
               for step in graph if step.kind == "Dataset" and not rows[step.name]]  # fmt: skip
    found = [*unknown, *elsewhere(graph), *warnings(graph, needs, here)]
    return Plan(needs, found, (here.memory - PROCESS_BYTES) / RL_BYTES)


def size_of(shape: Shape) -> tuple[int, ...]:
    """What of a shape a machine's speed depends on."""
    return shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers, shape.vocab_size


def need_of(
    step: Step,
    shape: Shape,
    machine: Machine,
    rows: Mapping[str, int],
    prompt: float,
    mean: float,
    lengths: Mapping[str, tuple[float, float]],
    ranks: int = 1,
    *,
    learnt: float = 1.0,
) -> Need:
    """What one step needs, by the kind of its settings; `lengths` are those of datasets, on average and at most."""
    P, cfg = parameters(shape), step.config
    if isinstance(cfg, Fetch):
        return Need(step.name, "-", P, disk=4.0 * P if cfg.model.endswith(".gguf") or cfg.model == "smollm2" else 0)
    if isinstance(cfg, Fresh):
        return Need(step.name, "-", P, disk=4 * P)
    if isinstance(cfg, Reinforce):
        watched = min(cfg.watched, rows[step.inputs["exam"].name]) if "exam" in step.inputs else 0
        need = reinforce_need(step.name, cfg, shape, machine, prompt, mean, watched=watched, ranks=ranks, learnt=learnt)
        return judged(need, cfg, machine, prompt + mean) if isinstance(cfg, Align) else need
    if isinstance(cfg, Pretrain):
        read = cfg.sft.epochs * (rows[step.inputs["corpus"].name] - cfg.held_out)
        tokens, updates = read * PROMPT_TOKENS, read / cfg.sft.batch
        return learning_need(step.name, shape, cfg.sft.policy, machine, tokens, updates, ranks=ranks)
    if isinstance(cfg, Imitate):
        corpus = step.inputs["corpus"]
        seen = cfg.sft.epochs * rows[corpus.name]
        length, longest = (min(cfg.sft.max_tokens, tokens) for tokens in lengths[corpus.name])
        return learning_need(
            step.name, shape, cfg.sft.policy, machine, seen * length, seen / cfg.sft.batch,
            length=length, longest=longest, ranks=ranks,
        )  # fmt: skip
    if isinstance(cfg, RewardModelConfig):
        data, each = step.inputs["data"], 2 if cfg.loss == "pairwise" else 1  # a pair is two sequences, never parted
        seen = cfg.epochs * rows[data.name]
        length, longest = (min(cfg.max_tokens, tokens) for tokens in lengths[data.name])
        return learning_need(
            step.name, shape, cfg.policy, machine, each * seen * length, seen / cfg.batch,
            length=length, longest=each * longest,
        )  # fmt: skip
    if isinstance(cfg, ColdData | Curate | Pairs | Labels | Exam):
        questions, attempts, longest = questions_of(step, rows), samples_of(cfg), cfg.sampling.max_tokens
        return sampling_need(
            step.name, shape, machine, questions, attempts, longest, prompt, mean, cfg.engine,
            together=cfg.chunk * attempts,
        )  # fmt: skip
    return Need(step.name)


def reinforce_need(
    name: str,
    cfg: Reinforce,
    shape: Shape,
    machine: Machine,
    prompt: float,
    mean: float,
    *,
    watched: int = 0,
    ranks: int = 1,
    learnt: float = 1.0,
) -> Need:
    """Sampling and learning share the weights, and take turns in one process, so that one's memory is the other's.

    So many exam questions are `watched`, in every `eval_every`-th update; such a share of the groups is `learnt` where
    those without spread are skipped.
    """
    g, P = cfg.grpo, parameters(shape)
    questions, longest = g.updates * g.questions_per_update, longest_of(g)
    sampled = sampling_need(
        name, shape, machine, questions, g.group_size, longest, prompt, mean, cfg.engine,
        together=in_flight(g), ranks=ranks,
    )  # fmt: skip
    held_out = watched * (g.updates // g.eval_every) if g.eval_every else 0
    watching = sampling_need(
        name, shape, machine, held_out, 1, longest, prompt, mean, cfg.engine, together=watched
    ).seconds if held_out else 0.0  # fmt: skip
    tokens = questions * prompt + sampled.tokens  # a group's prompt is learnt from once
    tokens *= learnt if g.skip_no_spread else 1.0
    learning = learning_need(
        name, shape, g.policy, machine, tokens, g.updates, length=prompt + mean, longest=prompt + longest,
        reference=g.beta > 0, ranks=ranks, sampled=4, engines=sampled.memory / ranks - PROCESS_BYTES - 4 * P,
        in_turn=not cfg.engine.processes,
    )  # fmt: skip
    memory, checkpoint = learning.memory, learning.checkpoint
    seconds = sampled.seconds + watching + learning.seconds
    if g.advantage == "gae":  # PPO's critic is a second model that learns
        memory, seconds = memory + ranks * sum(held_bytes(g.critic, 1)) * P, seconds + 8 * P * tokens / machine.flops
        checkpoint += checkpoint_bytes(shape, g.critic)
    disk = sampled.disk + learning.disk
    return Need(name, "sampling and learning", P, memory, sampled.tokens, seconds, disk, checkpoint)


def judged(need: Need, cfg: Align, machine: Machine, length: float) -> Need:
    """The same with two reward models beside, as large as the model that learns, of which one reads each answer to a
    general prompt, the prompt too: `length` tokens, in float32."""
    g = cfg.grpo
    answers = max(0, g.updates - cfg.joins) * g.questions_per_update * g.group_size * cfg.general_share
    flops = answers * length * 2 * need.parameters
    seconds = flops / (machine.learning_flops or machine.samples * machine.flops)
    return replace(need, memory=need.memory + 2 * 4 * need.parameters, seconds=need.seconds + seconds)


def compiles(shape: Shape, policy: LearnerConfig, ranks: int) -> bool:
    """Whether weights of a decoder of this shape learn by compiled functions on this machine."""
    whole = isinstance(policy, PolicyConfig) and parts_of(policy, ranks) == 1  # reward models learn by autocast
    return whole and not learns_on_gpu() and learns_compiled(shape, policy)


def learning_need(
    name: str,
    shape: Shape,
    policy: LearnerConfig,
    machine: Machine,
    tokens: float,
    updates: float,
    *,
    length: float = PROMPT_TOKENS,
    longest: float = 0.0,
    reference: bool = False,
    ranks: int = 1,
    sampled: int = 0,
    engines: float = 0.0,
    in_turn: bool = True,
) -> Need:
    """What training on `tokens` in `updates` takes; the model it makes is on the disk afterwards.

    `length` is the mean of its sequences, and a `longest` beyond `micro_batch_tokens` stands alone in a micro-batch;
    `sampled` are the bytes a number that engines sample from, of weights that lie in parts; `engines` those that each
    rank's hold beside the weights, `in_turn` with activations or as long as these.
    """
    compiled = compiles(shape, policy, ranks)
    P = parameters(shape)
    held = sum(learner_bytes(shape, policy, ranks, reference=reference, sampled=sampled, compiled=compiled))
    update = tokens / max(1.0, updates) / ranks
    gpu = learns_on_gpu()
    activations = activation_bytes(shape, policy, longest, ranks, update, compiled=compiled, gpu=gpu)
    beside = max(engines, activations) if in_turn else engines + activations
    memory = ranks * (PROCESS_BYTES + held + beside)
    flops = tokens * learning_flops(shape, policy, length, reference=reference)
    batches = max(updates, micro_batches(policy, tokens, length))
    if machine.learning_flops:
        seconds = flops / machine.learning_flops
    else:
        seconds = (
            flops / (machine.learns * machine.multiplies(policy.dtype)[0])
            + batches * 3 * KERNELS * shape.num_hidden_layers * machine.latency_s
        )
    checkpoint = checkpoint_bytes(shape, policy, reference=reference)
    return Need(name, "learning", P, memory, tokens, seconds, weight_bytes(policy) * P, checkpoint)


def sampling_need(
    name: str,
    shape: Shape,
    machine: Machine,
    questions: float,
    attempts: int,
    longest: int,
    prompt: float,
    mean: float,
    engine: EngineConfig,
    *,
    together: float = math.inf,
    ranks: int = 1,
) -> Need:
    """What sampling takes with continuous batching of the samples that are asked for `together`, of `mean` tokens and
    at most `longest`; a question's prompt is computed once."""
    P, samples = parameters(shape), questions * attempts
    products, size = machine.multiplies(engine.dtype)
    speed = machine.samples * products
    per_token = cache_bytes(shape, size)
    room = engine.kv_memory * 2**30 / (per_token * (prompt + longest))
    batch = max(1.0, min(ranks * max(1, engine.processes) * min(engine.max_batch, room), samples, together))
    cached = batch * per_token * (prompt + longest)
    memory = ranks * (PROCESS_BYTES + 4 * P + engines_bytes(shape, engine, size, cached / ranks))
    tokens, at_once = samples * mean, max(1.0, min(together, samples))
    steps = samples / at_once * (at_once * mean / batch + longest - mean)
    busy, seen = tokens / steps if steps else 0.0, prompt + mean / 2
    if machine.step_s:
        step_s = machine.step_s + busy * (machine.sample_s + seen * machine.read_s)
    else:
        step_s = 2 * P * busy / speed + size * P / machine.bandwidth  # the weights are read, and then multiplied with
        step_s += KERNELS * shape.num_hidden_layers * machine.latency_s + busy * seen * per_token / machine.bandwidth
    reading_s = questions * prompt * 2 * P / (machine.learning_flops or speed)
    seconds = steps * step_s + reading_s
    return Need(name, "sampling", P, memory, tokens, seconds, samples * (SAMPLE_BYTES + mean * 1.5))


def engines_bytes(shape: Shape, engine: EngineConfig, size: int, cached: float) -> float:
    """What engines hold on this machine beside the weights of the process that asks them.

    Weights packed once more, of `size` bytes each or in 8 bits, and `cached` bytes of keys and values, all engines'
    together; processes of their own have their own weights as well, and actors of a Ray cluster nothing here.
    """
    P, packed = parameters(shape), 1 if engine.quantization == "int8" else size
    if engine.ray:
        return 0.0
    if engine.processes:
        return engine.processes * (PROCESS_BYTES + (4 + packed) * P) + cached
    return packed * P + cached


def longest_of(g: Grpo) -> int:
    """The longest completion that GRPO ever allows."""
    return max((tokens for start, tokens in g.max_tokens if start < g.updates), default=g.max_tokens[0][1])


def in_flight(g: Grpo) -> int:
    """Samples that one rollout of GRPO asks for."""
    return (g.questions_per_update * min(g.minibatches, g.updates) + g.spare) * g.group_size


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
    shape = own_shape(name)
    if shape is None:
        from thinkery.model.adapter import read_shape as adapted_shape  # transformers, slow to import

        return adapted_shape(locate(name))
    return shape


def own_shape(name: str) -> Shape | None:
    """The same of a model that is our own decoder; None for any other network."""
    if name in KNOWN:
        return KNOWN[name]
    found = locate(name)
    if found.suffix == ".gguf":
        return _file_shape(found, found.stat().st_mtime_ns)
    config = read_config(found)
    own = config.get("model_type") in FAMILIES
    return shape_from_config(config, where=str(found / "config.json")) if own else None


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
    if isinstance(cfg, Pairs | Direct):
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


def row_tokens(step: Step, prompt: float, mean: float, expected: Expected) -> tuple[float, float]:
    """The mean and the greatest length of a dataset's conversations, as far as is expected or its settings say."""
    length = expected.rows.get(step.name, prompt + mean)
    return length, max(length, prompt + (longest_completion(step) or mean))


def mean_completion(step: Step, expected: Expected, fill: float) -> float:
    """The mean length of the answers that a step samples or brings: as expected, otherwise `fill` of the longest."""
    longest = longest_completion(step)
    unknown = fill * longest if longest else ANSWER_TOKENS if isinstance(step.config, Direct) else PROMPT_TOKENS
    mean = expected.tokens.get(step.name, unknown)
    return min(mean, longest) if longest else mean


def longest_completion(step: Step) -> int:
    """The longest answer that a step allows; 0 where it samples none."""
    if isinstance(step.config, Reinforce):
        return longest_of(step.config.grpo)
    sampling = getattr(step.config, "sampling", None)
    return sampling.max_tokens if sampling else 0


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


def elsewhere(graph: Sequence[Step]) -> list[str]:
    """What a plan for this processor says nothing of: steps that a GPU, vLLM or a Ray cluster would do."""
    places = {
        "this machine's GPU": [s for s in graph if isinstance(s.config, Reinforce) and learns_on_gpu()],
        "vLLM": [s for s in graph if getattr(s.config, "vllm", None)],
        "a Ray cluster": [s for s in graph if getattr(getattr(s.config, "engine", None), "ray", "")],
    }
    return [
        f"{', '.join(step.name for step in steps)} would use {place}: times are those of this machine's processor"
        for place, steps in places.items() if steps
    ]  # fmt: skip


def disk_of(needs: list[Need]) -> float:
    """Bytes of what stays when all is done, and on the way of a step's newest checkpoints and its last good one."""
    return sum(need.disk for need in needs) + (KEPT + 1) * max(need.checkpoint for need in needs)


def warnings(graph: list[Step], needs: list[Need], machine: Machine) -> list[str]:
    """What does not fit, with the setting to change, and bases too small to gain much from RL."""
    found = []
    for need in needs:
        if need.memory > machine.memory:
            found.append(
                f"{need.step} needs {need.memory / 1e9:.1f} GB of memory, {machine.memory / 1e9:.1f} are free: lower "
                "policy.micro_batch_tokens, max_tokens, engine.max_batch or engine.kv_memory, set policy.activations = "
                '"recomputed" or policy.lora, or take a smaller model'
            )
    if (disk := disk_of(needs)) > machine.disk:
        found.append(f"the run needs {disk / 1e9:.1f} GB of disk, {machine.disk / 1e9:.1f} are free: use another --dir")
    bases = {s.config.model for s in graph if isinstance(s.config, Fetch)} - set(EMBEDDED)
    trained = [need for need, step in zip(needs, graph, strict=True) if isinstance(step.config, Reinforce)]
    if bases and any(need.parameters < TOO_SMALL for need in trained):
        found.append(
            "RL alone gained the paper's authors little on bases of 7B parameters and below; imitating a stronger "
            "model's samples (the distill step) gained much more"
        )
    return found
