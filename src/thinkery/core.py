"""The nouns that are passed around: a task is asked, completions are sampled, scores judge them.

    Task ──► Sampling ──► Completion ──► Score      one Rollout = one judged attempt
                                                    one Group   = all attempts at one task

Everything here is frozen data without torch, so that any process can make, send and store it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Protocol, TypeVar

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; only an assistant's turn has a `thought`."""

    role: Role
    content: str
    thought: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Something to ask a model, with what is needed to judge the answer.

    `kind` names the way of judging: "math", "choice", "exact", "code" and "software" (hidden tests, in `info`),
    "environment" (the task's own, named in `info`), or "general" (no rule; reward models or a judge). `gold` is the
    reference answer, None where there is none. `language` is the BCP-47 tag of the question ("en", "zh"), None when
    unknown. `id` is unique inside its source and stable across runs. `info` holds whatever a source or a reward wants
    to carry along; it must survive JSON.
    `chat_template` is the Jinja that renders this task alone; empty leaves that to the model's own.
    """

    id: str
    prompt: str
    kind: str = "general"
    gold: str | None = None
    language: str | None = None
    source: str = ""
    history: tuple[Message, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation to render: earlier turns, then the prompt as the user's last."""
        return (*self.history, Message("user", self.prompt))

    @property
    def environment(self) -> str:
        """The name of the environment that made it and judges it; "" for every other task."""
        return self.info.get("environment", {}).get("name", "")

    def continued(self, completion: Completion, says: str) -> Task:
        """The next turn of the conversation: what was asked and answered is history, and what `says` is asked."""
        answered = Message("assistant", completion.answer, completion.thought)
        return replace(self, history=(*self.messages, answered), prompt=says)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample: R1's evaluation uses T 0.6 and top-p 0.95, its RL T 1 (v2 §B.3, §D.1)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a recipe's misspelt key is an error here too

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and self.top_k >= 0 and self.max_tokens >= 0):
            raise ValueError(
                "sampling takes a temperature from 0 on, a top_p above 0 up to 1, a top_k and max_tokens from 0 on; "
                f"found {self.temperature:g}, {self.top_p:g}, {self.top_k} and {self.max_tokens}"
            )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model said to one prompt.

    `tokens` includes the end-of-sequence token when the model emitted one; `text` does not.
    `logprobs[i]` is the log-probability of `tokens[i]` under softmax(logits / temperature), before
    top-p and top-k cut it (at temperature 0: under softmax(logits)). `thought` is None when the
    completion has no thought at all; `closed` says whether the thought was ended. `answer` is what
    follows the thought, and the whole text where there is none.
    `version` counts the weight updates of the engine that sampled its first token. Where the weights changed on the
    way, `spans` has a (version, tokens) for each part, in order.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Finish = "stop"
    thought: str | None = None
    answer: str = ""
    closed: bool = False
    version: int = 0
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """One reward's verdict: `value` None means ungraded, which is never the same as 0."""

    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an environment makes of a reply: its score, whether the episode is over, and what it says if it is not."""

    score: Score
    over: bool = True
    says: str = ""


class Episode(Protocol):
    """A conversation with an environment about one task, whose prompt opens it."""

    def reply(self, text: str) -> Turn:
        """Take the model's reply, without its thought; not to be called after the turn that is `over`."""
        ...


Reward = Callable[[Task, Completion], "float | Score | Awaitable[float | Score]"]
R = TypeVar("R", bound=Reward)


def always(task: Task) -> bool:
    """The condition that holds for every task."""
    return True


def rule(reward: R) -> R:
    """Say of a reward, above its `def`, that it is a function of task and completion alone.

    Any machine with the same version of Thinkery may judge by it. A class says so by a method `rule(task)`, which is
    whether it is one for this task.
    """
    reward.rule = always  # type: ignore[attr-defined]
    return reward


@dataclass(frozen=True, slots=True)
class Rollout:
    """One judged attempt: the rendered prompt, the completion, each reward's score and their sum.

    `reward` is None when any score that counts is ungraded. `sample` is its number inside the group.
    """

    task: Task
    prompt: tuple[int, ...]
    completion: Completion
    scores: Mapping[str, Score] = field(default_factory=dict)
    reward: float | None = None
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """All attempts at one task, in the order of their sample numbers; the G of GRPO."""

    task: Task
    rollouts: tuple[Rollout, ...]
    judge_s: float = field(default=0.0, compare=False)
    """Seconds that judging them took, which may have gone on beside the sampling of other groups."""

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """The reward of every attempt, None where ungraded."""
        return tuple(r.reward for r in self.rollouts)


def seed_of(run_seed: int, step: int, task_id: str, sample: int) -> int:
    """The 63-bit seed of one sample; depends on nothing else, so batch composition cannot change a draw."""
    text = f"{run_seed}/{step}/{task_id}/{sample}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1
