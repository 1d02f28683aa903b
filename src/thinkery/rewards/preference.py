"""Preference as a reward (R1 v2): what a trained reward model thinks of an answer.

The helpful model reads the question and the final answer only, so that it does not interfere with the thought; the
safety model reads everything. The score is the model's raw number, without bounds; a rubric's weight scales it.

The end of sequence is not read: the score stands on the last token of the text, which is also where transformers
looks when it pads with the end of sequence.

Shapes: T tokens of S sequences, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from thinkery.core import Completion, Message, Score, Task
from thinkery.errors import InputError
from thinkery.model.hf import FAMILIES, config_from_shape, load_model, read_config, shape_from_config, write_json
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.model.weights import fill, read_weights, write_weights

Reads = Literal["answer", "all"]
MAX_TOKENS = 8192
"""Tokens in one forward pass."""


class PreferenceReward:
    """A reward that asks the reward model in `folder`; it `reads` the final "answer" or "all" of a completion.

    A completion without an answer is judged as an empty one. Longer texts than the model has positions for are
    ungraded.
    """

    def __init__(self, folder: Path, reads: Reads) -> None:
        self.model = RewardModel.load(folder)
        if torch.cuda.is_available():
            self.model.cuda()
        self.reads: Reads = reads

    def __call__(self, task: Task, completion: Completion) -> Score:
        """The score of one completion."""
        return self.batch([(task, completion)])[0]

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """The scores of many completions, in order."""
        texts = [reading(self.model.tokenizer, task.messages, turn(said), self.reads) for task, said in pairs]
        limit = self.model.network.shape.max_position_embeddings
        fitting = [i for i, tokens in enumerate(texts) if len(tokens) <= limit]
        scores = [Score(None, f"longer than the reward model's {limit} positions") for _ in pairs]
        for i, value in zip(fitting, self.model.scores([texts[i] for i in fitting]), strict=True):
            scores[i] = Score(value)
        return scores


class RewardModel(nn.Module):
    """A decoder with a scalar head; a new head is zero, so every score starts at 0."""

    def __init__(self, network: Transformer, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.network, self.tokenizer = network.eval(), tokenizer
        self.score = nn.Linear(network.shape.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, tokens_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """scores_S, one for each sequence, from the hidden state of its last token."""
        hidden_TD = self.network.packed(tokens_T, lengths)
        last_S = torch.tensor(lengths, device=tokens_T.device).cumsum(0) - 1
        return self.score(hidden_TD[last_S]).squeeze(-1).float()

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The score of every sequence of tokens, in order."""
        found = [0.0] * len(sequences)
        waiting = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        while waiting:
            count = max(1, MAX_TOKENS // len(sequences[waiting[-1]]))
            places, waiting = waiting[-count:], waiting[:-count]
            tokens_T = torch.tensor([t for i in places for t in sequences[i]], device=self.score.weight.device)
            scores_S = self(tokens_T, [len(sequences[i]) for i in places])
            for place, score in zip(places, scores_S.tolist(), strict=True):
                found[place] = score
        return found

    @classmethod
    def start(cls, folder: Path) -> RewardModel:
        """A reward model with the weights of a language model's folder and a new head."""
        network, tokenizer = load_model(folder)
        if not isinstance(network, Transformer):
            raise InputError("a reward model starts from a Llama, Qwen2 or Qwen3 checkpoint", where=str(folder))
        return cls(network, tokenizer)

    @classmethod
    def load(cls, folder: Path) -> RewardModel:
        """Read what `save` wrote."""
        config = read_config(folder)
        if not config["architectures"][0].endswith("ForSequenceClassification") or len(config["id2label"]) != 1:
            raise InputError("not a reward model: it needs a head with one label", where=str(folder))
        model = cls(Transformer(shape_from_config(config)), Tokenizer.load(folder))
        weights = read_weights(folder)
        model.score.weight.data.copy_(weights.pop("score.weight"))
        if not model.network.shape.tie_word_embeddings:
            weights["lm_head.weight"] = torch.zeros_like(model.network.lm_head.weight)  # not stored, not used
        fill(model.network, weights, where=str(folder))
        return model

    def save(self, folder: Path) -> None:
        """Write a folder that transformers loads as AutoModelForSequenceClassification with one label."""
        folder.mkdir(parents=True, exist_ok=True)
        shape = self.network.shape
        architecture = FAMILIES[shape.family].replace("ForCausalLM", "ForSequenceClassification")
        head = {"architectures": [architecture], "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        write_json(folder / "config.json", config_from_shape(shape, self.tokenizer) | head)
        weights = {name: p for name, p in self.network.named_parameters() if name != "lm_head.weight"}
        write_weights(folder, weights | {"score.weight": self.score.weight})
        self.tokenizer.save(folder)


def reading(tokenizer: Tokenizer, before: Sequence[Message], said: Message, reads: Reads) -> list[int]:
    """The tokens a reward model reads: the conversation and the turn, without its thought for "answer"."""
    turn = said if reads == "all" else Message("assistant", said.content)
    prompt, target = tokenizer.conversation([*before, turn])
    while target and target[-1] in tokenizer.eos_ids:
        target = target[:-1]
    return [*prompt, *target]


def turn(completion: Completion) -> Message:
    """A completion as the assistant's turn."""
    return Message("assistant", completion.answer, completion.thought)
