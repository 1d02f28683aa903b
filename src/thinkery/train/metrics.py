"""What an update tells about its samples: rewards, groups, lengths, text, time; the names are those of the charts.

Lengths are tokens. The tags of a thought count as thought; where a thought was never closed, all of it is thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from thinkery.core import Group, Rollout
from thinkery.model.tokenizer import Tokenizer
from thinkery.rewards.language import language_share
from thinkery.rewards.shaping import reflections, repetition


def group_metrics(groups: Sequence[Group], tokenizer: Tokenizer) -> dict[str, float]:
    """All metrics of these groups; truncation comes first because it explains most of the rest."""
    rollouts = [r for g in groups for r in g.rollouts]
    if not rollouts:
        return {}
    found = lengths(rollouts, tokenizer) | rewards(rollouts) | spread(groups) | texts(rollouts)
    return found | {"time/reward": sum(g.judge_s for g in groups)}  # beside the sampling, where that goes on


def lengths(rollouts: Sequence[Rollout], tokenizer: Tokenizer) -> dict[str, float]:
    """Truncation and lengths in tokens."""
    said = [r.completion for r in rollouts]
    whole = [len(c.tokens) for c in said]
    answers = [
        len(tokenizer.encode(c.answer)) if c.thought is not None else n for c, n in zip(said, whole, strict=True)
    ]
    return {
        "completion/truncated": fmean(c.finish == "length" for c in said),
        "completion/length_mean": fmean(whole),
        "completion/length_max": float(max(whole)),
        "thought/length_mean": fmean(max(0, n - a) for n, a in zip(whole, answers, strict=True)),
        "answer/length_mean": fmean(answers),
    }


def rewards(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The summed reward, each part of it, and the share that could not be graded."""
    graded = [r.reward for r in rollouts if r.reward is not None]
    found = {"reward/ungraded": 1 - len(graded) / len(rollouts)}
    if graded:
        found |= {"reward/mean": fmean(graded), "reward/std": pstdev(graded)}
    parts: dict[str, list[float]] = {}
    for rollout in rollouts:
        for name, score in rollout.scores.items():
            if score.value is not None:
                parts.setdefault(name, []).append(score.value)
    return found | {f"reward/{name}/mean": fmean(values) for name, values in parts.items()}


def spread(groups: Sequence[Group]) -> dict[str, float]:
    """The share of groups that teach nothing because all rewards are equal, split by whether they were right; those
    count too that others replaced.

    Single attempts, which PPO can learn from, are no groups.
    """
    several = [g for g in groups if len(g.rollouts) > 1]
    if not several:
        return {}
    flat = [g for g in several if not has_spread(g)]
    right = sum(mean_accuracy(g) > 0.5 for g in flat)
    return {
        "group/no_spread": len(flat) / len(several),
        "group/no_spread_right": right / len(several),
        "group/no_spread_wrong": (len(flat) - right) / len(several),
    }


def useful(groups: Sequence[Group]) -> dict[str, float]:
    """The share of groups, of those that are learnt from, whose attempts earned different rewards."""
    several = [g for g in groups if len(g.rollouts) > 1]
    return {"group/useful": fmean(map(has_spread, several))} if several else {}


def has_spread(group: Group) -> bool:
    """Whether the graded attempts earned different rewards."""
    return len({r for r in group.rewards if r is not None}) > 1


def mean_accuracy(group: Group) -> float:
    """The mean accuracy of a group's attempts; their mean reward where nothing is called accuracy."""
    scores = [r.scores["accuracy"].value if "accuracy" in r.scores else r.reward for r in group.rollouts]
    return fmean([s for s in scores if s is not None] or [0.0])


def texts(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Share of the question's language in thoughts, words of reflection and repetition in completions."""
    shares = [
        language_share(r.completion.thought, r.task.language)
        for r in rollouts
        if r.completion.thought and r.task.language
    ]
    known = [s for s in shares if s is not None]
    said = [r.completion.text for r in rollouts]
    found = {
        "text/reflection": fmean(reflections(text) for text in said),
        "text/repetition": fmean(repetition(text) for text in said),
    }
    return found | ({"text/language": fmean(known)} if known else {})
