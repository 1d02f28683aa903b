"""llama.cpp as the libraries of an npm package (docs/performance.md): all sequences in one context, a step a batch.

A prompt is computed once; its keys and values are handed to its other samples by `llama_memory_seq_cp`. Then every step
is one batch with a token of each sample, drawn by llama.cpp's own samplers from the whole vocabulary.

options: libraries (their folder), file (the .gguf), flash (its fused attention: on or off), keys (their number format:
F16, BF16 or F32), cache (streams: keys and values of each sequence by themselves; unified: all in one place, what is
shared once), draw (one: a sample after the other; threads: on all threads; graph: in the graph of the step).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from bench.peers.work import PROMPT_TOKENS, Material, Work, short
from bench.peers.worker import Turns, told

VERSION = "v0.5.0"
"""Of llama.cpp, whose structures these are; they change from version to version."""
TYPES = {"F32": 0, "F16": 1, "BF16": 30}
"""ggml's numbers of number formats."""
ERROR = 4
"""Its level of messages that are shown."""


class ModelParams(Structure):
    """llama_model_params."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class SamplerConfig(Structure):
    """llama_sampler_seq_config."""

    _fields_ = (("seq_id", c_int32), ("sampler", c_void_p))


class ContextParams(Structure):
    """llama_context_params."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", POINTER(SamplerConfig)),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class ChainParams(Structure):
    """llama_sampler_chain_params."""

    _fields_ = (("no_perf", c_bool),)


FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (c_void_p, c_char_p, ModelParams),
    "llama_init_from_model": (c_void_p, c_void_p, ContextParams),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_memory_clear": (None, c_void_p, c_bool),
    "llama_memory_seq_cp": (None, c_void_p, c_int32, c_int32, c_int32, c_int32),
    "llama_batch_init": (Batch, c_int32, c_int32, c_int32),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_synchronize": (None, c_void_p),
    "llama_sampler_chain_init": (c_void_p, ChainParams),
    "llama_sampler_chain_add": (None, c_void_p, c_void_p),
    "llama_sampler_init_temp": (c_void_p, c_float),
    "llama_sampler_init_dist": (c_void_p, c_uint32),
    "llama_sampler_init_greedy": (c_void_p,),
    "llama_sampler_sample": (c_int32, c_void_p, c_void_p, c_int32),
}
"""Result and arguments."""


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """Sampling only."""
    llama = Llama(work, threads, options)
    llama.sample(material.prompts(short(work), -1), short(work))
    turns.timed(lambda number: told(work, llama.sample(material.prompts(work, number), work)))


class Llama:
    """A model and a context with room for the sequences of one kind of work."""

    def __init__(self, work: Work, threads: int, options: dict[str, str]) -> None:
        self.lib = library(Path(options["libraries"]))
        self.chains = [self.chain(number, work.kind == "greedy") for number in range(work.sequences)]
        self.batch = self.lib.llama_batch_init(max(work.prompts * PROMPT_TOKENS, work.sequences), 0, 1)
        self.context = self.opened(work, threads, options)
        self.memory = self.lib.llama_get_memory(self.context)
        self.spread = ThreadPoolExecutor(threads).map if options["draw"] == "threads" else map
        self.parts = threads if options["draw"] == "threads" else 1

    def chain(self, seed: int, greedy: bool) -> int:
        """A sequence's sampler."""
        chain = self.lib.llama_sampler_chain_init(ChainParams(True))
        if greedy:
            self.lib.llama_sampler_chain_add(chain, self.lib.llama_sampler_init_greedy())
            return chain
        self.lib.llama_sampler_chain_add(chain, self.lib.llama_sampler_init_temp(1.0))
        self.lib.llama_sampler_chain_add(chain, self.lib.llama_sampler_init_dist(seed))
        return chain

    def opened(self, work: Work, threads: int, options: dict[str, str]) -> int:
        """The model's context."""
        model = self.lib.llama_model_load_from_file(options["file"].encode(), self.lib.llama_model_default_params())
        params = self.lib.llama_context_default_params()
        params.kv_unified = options["cache"] == "unified"
        each = PROMPT_TOKENS + work.new_tokens
        room = work.prompts * PROMPT_TOKENS + work.sequences * work.new_tokens
        params.n_ctx = up(room) if params.kv_unified else work.sequences * up(each)
        params.n_batch = params.n_ubatch = int(options.get("ubatch", 1024))
        params.n_seq_max = params.n_outputs_max = work.sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(options["flash"] == "on")
        params.type_k = params.type_v = TYPES[options["keys"]]
        if options["draw"] == "graph":
            self.configs = (SamplerConfig * work.sequences)(*enumerate(self.chains))
            params.samplers, params.n_samplers = self.configs, work.sequences
        context = self.lib.llama_init_from_model(model, params)
        if not context:
            raise RuntimeError(f"llama.cpp could not open {options['file']}; its words are above")
        return context

    def sample(self, prompts: Sequence[Sequence[int]], work: Work) -> list[list[int]]:
        """New tokens, prompt by prompt. Sample `s` of prompt `p` is sequence `p + s * len(prompts)`."""
        count, sequences = len(prompts), range(work.sequences)
        self.lib.llama_memory_clear(self.memory, False)
        places = [(token, at, p) for p, prompt in enumerate(prompts) for at, token in enumerate(prompt)]
        self.decode(places, lambda at: at == PROMPT_TOKENS - 1)
        for sequence in sequences[count:]:
            self.lib.llama_memory_seq_cp(self.memory, sequence % count, sequence, -1, -1)
        texts = [[token] for token in self.drawn([s % count * PROMPT_TOKENS + PROMPT_TOKENS - 1 for s in sequences])]
        for at in range(PROMPT_TOKENS, PROMPT_TOKENS + work.new_tokens - 1):
            self.decode([(text[-1], at, sequence) for sequence, text in enumerate(texts)], lambda _: True)
            for text, token in zip(texts, self.drawn(list(sequences)), strict=True):
                text.append(token)
        return [texts[p + s * count] for p in range(count) for s in range(work.samples)]

    def decode(self, places: Sequence[tuple[int, int, int]], wanted: Callable[[int], bool]) -> None:
        """One batch of tokens, each with its position and its sequence; logits at the positions that are wanted."""
        batch = self.batch
        batch.n_tokens = len(places)
        for i, (token, at, sequence) in enumerate(places):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, at, 1, sequence
            batch.logits[i] = wanted(at)
        if failed := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode answered {failed}")
        self.lib.llama_synchronize(self.context)

    def drawn(self, rows: Sequence[int]) -> list[int]:
        """The next token of every sequence, given where in the batch its logits are."""

        def part(number: int) -> list[int]:
            some = range(number, len(rows), self.parts)
            return [self.lib.llama_sampler_sample(self.chains[i], self.context, rows[i]) for i in some]

        tokens = [0] * len(rows)
        for number, found in enumerate(self.spread(part, range(self.parts))):
            tokens[number :: self.parts] = found
        return tokens


def up(tokens: int) -> int:
    """Room for so many, in the whole parts that llama.cpp makes."""
    return -(-tokens // 256) * 256


def library(folder: Path) -> ctypes.CDLL:
    """llama.cpp with the build for this processor out of those in the folder."""
    for name in ("libggml-base.so", f"libggml.{VERSION}.so", f"libllama.{VERSION}.so"):
        lib = ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
        if name.startswith("libggml."):
            lib.ggml_backend_load_all_from_path(str(folder).encode())
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
