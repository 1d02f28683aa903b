"""Questions in flight over several rollouts, so that the longest samples do not hold a step: `grpo.spare`, `.span`.

    in flight   a b c d e f        six questions for the four that an update learns from
    span 1      a b ─ d ─ f        four have ended: they are learnt
    carried         c   e          what they have said is kept, and goes on from newer weights
    next        c e g h i j        four new ones beside them

Samples are continued by `span` tokens at a time, all of them, until as many questions as are needed have ended; of
those that end in the same span, the ones that were asked first are taken. So what is taken depends on lengths alone and
not on the clock, on how many ranks or processes sample, or on what they do besides. What is left over, ended or not, is
carried to the next rollout and no question is dropped: every question is learnt once, the long ones later. The first
updates therefore learn from shorter samples than the policy writes; at the end of training nothing is asked beyond what
is needed, and the last rollout waits for all.

The parts of a sample may come from several versions of the weights. Each token keeps the log-probability it was
sampled with, by which it is corrected (`old_logprobs = "trainer"`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Any

from thinkery.core import Completion, Group, Sampling, Task, seed_of
from thinkery.engine.base import Engine, Event, Request, generate
from thinkery.pipeline.artifact import row_to_task, task_to_row
from thinkery.pipeline.ranks import Ranks
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import Clock, judging


@dataclass(frozen=True, slots=True)
class Flight:
    """One question under way: what its samples have said so far, and the numbers of those that go on."""

    round: int
    task: Task
    out: tuple[int, ...]
    prompt: tuple[int, ...] = ()
    said: Mapping[int, Completion] = field(default_factory=dict)
    """By the sample's number."""
    spans: int = 0
    """How often its samples were continued."""

    @property
    def key(self) -> tuple[int, str]:
        """What tells it from others in flight."""
        return self.round, self.task.id

    def request(self, sampling: Sampling, seed: int) -> Request:
        """Its samples that go on, from where they are."""
        return Request(
            tuple(seed_of(seed, self.round, self.task.id, n) for n in self.out),
            sampling,
            self.task.messages,
            chat_template=self.task.chat_template,
            begun=tuple(self.said[n] for n in self.out) if self.said else (),
        )

    def heard(self, events: Sequence[Event], until: int, longest: int) -> Flight:
        """After a span: samples that were cut at `until` tokens go on, unless that is as long as any may be."""
        said = {n: event.completion for n, event in zip(self.out, events, strict=True) if event.completion}
        cut = (n for n, one in said.items() if one.finish == "length" and len(one.tokens) == until < longest)
        return replace(self, out=tuple(cut), prompt=events[0].prompt, said={**self.said, **said}, spans=self.spans + 1)

    def events(self) -> list[Event]:
        """Its samples as they are."""
        return [Event("", n, completion=self.said[n], prompt=self.prompt) for n in sorted(self.said)]


@dataclass(slots=True)
class Flights:
    """All questions under way, in the order in which they were asked; part of every checkpoint."""

    open: list[Flight] = field(default_factory=list)
    spans: int = 0
    """How often they were continued in this rollout."""

    def copy(self) -> Flights:
        """As it is now."""
        return Flights(list(self.open), self.spans)

    def join(self, round: int, tasks: Sequence[Task], samples: int) -> None:
        """Questions that are asked from now on."""
        self.open += [Flight(round, task, tuple(range(samples))) for task in tasks]

    def land(
        self,
        ranks: Ranks,
        engine: Engine,
        sampling: Sampling,
        rubric: Rubric,
        *,
        count: int,
        span: int,
        seed: int,
        clock: Clock,
    ) -> list[Group]:
        """The judged groups of the first `count` questions to end, in the order of asking, on every rank; the others
        stay open. Judging goes on beside sampling."""
        landed: dict[tuple[int, str], Flight] = {}
        judged: dict[tuple[int, str], Future[Group]] = {}
        with judging(rubric) as submit:
            while len(landed) < count:
                self.open = advance(ranks, engine, self.open, sampling, span, seed)
                self.spans += 1
                ended = [one for one in self.open if not one.out and one.key not in landed]
                ended = ended[: count - len(landed)]
                landed |= {one.key: one for one in ended}
                judged |= {one.key: submit(one.task, one.events()) for one in ranks.share(ended)}
            with clock("grading"):
                own = {key: future.result() for key, future in judged.items()}
        groups = {key: group for part in ranks.gather(own) for key, group in part.items()}
        taken, self.open = (
            [one for one in self.open if one.key in landed],
            [one for one in self.open if one.key not in landed],
        )
        return [groups[one.key] for one in taken]

    def metrics(self) -> dict[str, float]:
        """How many questions stay open, how many of these have ended, and how many spans the rollout took."""
        return {
            "flights/open": float(len(self.open)),
            "flights/ended": float(sum(not one.out for one in self.open)),
            "flights/spans": float(self.spans),
        }

    def rows(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [
            {
                "round": one.round,
                "task": task_to_row(one.task),
                "out": one.out,
                "prompt": one.prompt,
                "said": [[n, row_of(said)] for n, said in one.said.items()],
                "spans": one.spans,
            }
            for one in self.open
        ]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Flights:
        """What `rows` wrote."""
        return cls([
            Flight(
                row["round"],
                row_to_task(row["task"]),
                tuple(row["out"]),
                tuple(row["prompt"]),
                {n: said_of(said) for n, said in row["said"]},
                row["spans"],
            )
            for row in rows
        ])  # fmt: skip


def advance(
    ranks: Ranks, engine: Engine, flights: Sequence[Flight], sampling: Sampling, span: int, seed: int
) -> list[Flight]:
    """The flights after one more span, on every rank; each has worked on an equal share of those that go on."""
    own = ranks.share([one for one in flights if one.out])
    until = [min(span * (one.spans + 1), sampling.max_tokens) for one in own]
    requests = [one.request(replace(sampling, max_tokens=end), seed) for one, end in zip(own, until, strict=True)]
    further = {
        own[i].key: own[i].heard(events, until[i], sampling.max_tokens) for i, events in generate(engine, requests)
    }
    found = {key: one for part in ranks.gather(further) for key, one in part.items()}
    return [found.get(one.key, one) for one in flights]


def row_of(said: Completion) -> dict[str, Any]:
    """A completion for a checkpoint; `asdict` would copy every token."""
    return {each.name: getattr(said, each.name) for each in fields(said)}


def said_of(row: Mapping[str, Any]) -> Completion:
    """A completion from a checkpoint."""
    tuples = {
        "tokens": tuple(row["tokens"]),
        "logprobs": tuple(row["logprobs"]),
        "spans": tuple(map(tuple, row["spans"])),
    }
    return Completion(**{**row, **tuples})
