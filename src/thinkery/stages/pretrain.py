"""Making a base model from nothing, as the embedded bases were made: documents, a tokenizer, next-token prediction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from thinkery.config import Config
from thinkery.model import hf
from thinkery.model.tokenizer import Tokenizer as ChatTokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.tasks.world import documents, exercises, listings, textbooks
from thinkery.train.policy import open_policy
from thinkery.train.sft import Sft, SftPolicy, sft

EOS = "<|end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
PIECES = Regex(r" ?\p{N}{1,2}| ?[A-Za-z]+| ?\p{Han}+| ?[^\s\p{L}\p{N}]+|\s+| ?\p{L}+")
"""Where the tokenizer may not merge across: numbers of at most two digits are one token each."""


CORPORA = {"textbooks": textbooks, "exercises": exercises, "listings": listings}
"""What there is to read beside crawls, by the name a recipe uses."""


class Corpus(Config):
    """What to read, and how much."""

    kind: Literal["textbooks", "exercises", "listings"] = "textbooks"
    """Worked problems and single steps, worked problems alone, or short Python functions."""
    documents: int = 70_000
    """Documents of 45 to 60 tokens."""


class Crawl(Config):
    """A crawl of mixed quality, and how often it thinks inside the tags."""

    documents: int = 70_000
    """Documents of 45 to 60 tokens."""
    tagged: float = 0.06
    """Share of answers with a thought inside the tags, under the preamble that zero is asked with: the habit."""
    careful: float = 0.38
    """Share of those thoughts, under any preamble, that make every step: the skill."""
    halfway: float = 0.0
    """Share of the others that stop after half of the steps."""


def world_corpus(run: Run, cfg: Corpus) -> Dataset:
    """Write documents of the embedded world as rows {"text": …}."""
    return write(run, CORPORA[cfg.kind](run.seed), cfg.documents)


def world_crawl(run: Run, cfg: Crawl) -> Dataset:
    """The same of a crawl."""
    return write(run, documents(run.seed, cfg.tagged, cfg.careful, cfg.halfway), cfg.documents)


def write(run: Run, texts: Iterator[str], count: int) -> Dataset:
    """The first `count` texts as a dataset."""
    writer = run.dataset()
    for number, text in enumerate(islice(texts, count)):
        writer.add({"text": text}, f"{number:08d}")
        if number % 1000 == 999:
            run.progress(number + 1, count)
    return writer.finish()


class Fresh(Config):
    """The size of a new model, a Llama; the defaults are the embedded base's 0.9 million parameters."""

    vocabulary: int = 1024
    """Tokens, the four tags and the end of sequence included."""
    width: int = 128
    """Hidden size."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Attention heads, each with its own keys and values."""
    feed_forward: int = 384
    """Inner width of the feed-forward."""
    positions: int = 1024
    """Longest text in tokens."""
    std: float = 0.06
    """Standard deviation of the weights; 0.02, usual for wide models, is small for this width."""


def fresh(run: Run, cfg: Fresh, corpus: Dataset) -> Model:
    """Random weights and a byte-level BPE tokenizer trained on the corpus."""
    texts = (row["text"] for row in corpus.rows())
    tokenizer = ChatTokenizer(train_bpe(texts, cfg.vocabulary), eos=EOS, pad=EOS)
    network = Transformer(fresh_shape(cfg))
    network.initialise(torch.Generator().manual_seed(run.seed), cfg.std)

    def write(folder: Path) -> None:
        hf.save_model(folder, network, tokenizer)

    return run.save_model(write)


def fresh_shape(cfg: Fresh) -> Shape:
    """The shape of a model of this size."""
    return Shape(
        "llama", cfg.vocabulary, cfg.width, cfg.feed_forward, cfg.layers, cfg.heads, cfg.heads,
        cfg.width // cfg.heads, max_position_embeddings=cfg.positions,
    )  # fmt: skip


def train_bpe(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE; the tags are tokens of their own, ordinary ones, so that they stay in decoded text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[EOS],
        show_progress=False,
    )
    tokenizer.train_from_iterator((without_tags(text) for text in texts), trainer)
    tokenizer.add_tokens([AddedToken(tag, lstrip=True, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def without_tags(text: str) -> str:
    """The text as the merges should see it."""
    for tag in TAGS:
        text = text.replace(f" {tag}", "")
    return text


class SchoolLoop(Sft):
    """One pass over the textbooks: small batches, which teach a small model most per token."""

    policy: SftPolicy = SftPolicy(
        lr=1.5e-3, betas=(0.9, 0.98), warmup=100, final_lr_share=0.3, weight_decay=0.1, dtype="bfloat16",
        micro_batch_tokens=2048,
    )  # fmt: skip
    epochs: int = 1
    batch: int = 24
    max_tokens: int = 1024
    checkpoint_every: int = 500


class DrillLoop(SchoolLoop):
    """One pass over the exercises."""

    policy: SftPolicy = SftPolicy(
        lr=1.2e-3, betas=(0.9, 0.98), warmup=50, final_lr_share=0.2, weight_decay=0.1, dtype="bfloat16",
        micro_batch_tokens=2048,
    )  # fmt: skip


class CrawlLoop(SchoolLoop):
    """One pass over the crawl."""

    policy: SftPolicy = SftPolicy(
        lr=7e-4, betas=(0.9, 0.98), warmup=100, weight_decay=0.1, dtype="bfloat16", micro_batch_tokens=2048
    )
    batch: int = 40


class Pretrain(Config):
    """Settings of next-token prediction."""

    sft: Sft = CrawlLoop()
    """The loop."""
    held_out: int = 500
    """Documents that only measure."""


class School(Pretrain):
    """The first reading."""

    sft: Sft = SchoolLoop()
    """The loop."""


class Drill(Pretrain):
    """The second reading."""

    sft: Sft = DrillLoop()
    """The loop."""


def pretrain(run: Run, cfg: Pretrain, start: Model, corpus: Dataset) -> Model:
    """Predict every token of every document once."""
    rows = list(corpus.rows())
    with open_policy(run, start, cfg.sft.policy) as policy:
        sft(run, cfg.sft, policy, rows[cfg.held_out :], held_out=rows[: cfg.held_out])
        return run.save_model(policy.save_model)


pretrain.on_all_ranks = True  # type: ignore[attr-defined]
