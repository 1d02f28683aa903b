"""Alarms: pure functions from the history of metrics to what is wrong, one line of advice and the setting to change.

A history is a list of metric rows, one for each update, oldest first, with what was measured before the first one as
update 0; where some are left out, each says in `step` which update it is of. Every check looks at the end of it and
answers None while all is well, so that a caller can ask again after every update. Room on the disk and changed hashes
are `pipeline`'s to tell, what shows before the first update `preflight.py`'s and the reward lint's.

`tests/train/test_misbehaving.py` has a run that sets off each of them, and follows the advice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, pstdev

Row = Mapping[str, float]
History = Sequence[Row]
WINDOW = 10
"""Updates over which a level is averaged before two levels are compared."""
APART = 0.1
"""Nats a token between sampler and trainer beyond which importance weights do not help either."""
EFFECTIVE = 0.5
"""Effective sample size of importance weights, as a share of the tokens, below which they waste most of a rollout."""
LOWER = "lower the learning rate to a tenth"
"""What helps when losses are not finite, also outside reinforcement learning."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that usually ruins a run: its kind, what was seen, what to do, and the setting to change for it."""

    kind: str
    message: str
    setting: str
    """A key in the block of the step, such as `grpo.max_tokens`."""
    advice: str


def alarms(history: History) -> list[Alarm]:
    """Everything that is wrong at the end of this history."""
    return [alarm for check in CHECKS if history and (alarm := check(history))]


def not_finite(history: History) -> Alarm | None:
    """The last update had a NaN or infinite loss or gradient."""
    if history[-1].get("optim/skipped") or not math.isfinite(history[-1].get("optim/loss", 0.0)):
        seen = "the loss or its gradient was not finite; the update was skipped"
        return Alarm("non-finite", seen, "grpo.policy.lr", LOWER)
    return None


def truncated(history: History) -> Alarm | None:
    """Every completion was cut once, or half of them three times in a row."""
    shares = column(history, "completion/truncated")[-3:]
    if not shares or not (shares[-1] == 1.0 or (len(shares) == 3 and min(shares) >= 0.5)):
        return None
    seen = f"{shares[-1]:.0%} of completions are cut at the length limit"
    return Alarm("truncated", seen, "grpo.max_tokens", "allow twice the length, or more until few are cut")


def no_spread(history: History) -> Alarm | None:
    """Nearly all groups that the last updates learnt from teach nothing; those that others replaced do not count."""
    rows = [row for row in history if "group/no_spread" in row][-3:]
    share = mean([1 - row.get("group/useful", 1 - row["group/no_spread"]) for row in rows]) if rows else 0.0
    if len(rows) < 3 or share < 0.8:
        return None
    right, sampled = (mean_where_known(rows, f"group/no_spread{of}") or 0.0 for of in ("_right", ""))
    problem, always = ("easy", "always") if right > sampled / 2 else ("hard", "never")
    seen = f"{share:.0%} of groups have equal rewards: the tasks are too {problem}"
    advice = f"set it to 8 to leave out tasks that are {always} solved, or collect others"
    return Alarm("no-spread", seen, "grpo.pool.samples", advice)


def entropy_collapse(history: History) -> Alarm | None:
    """The policy's entropy fell under a fifth of where it started."""
    values = column(history, "policy/entropy")
    if len(values) < 2 * WINDOW:
        return None
    start, now = mean(values[:WINDOW]), mean(values[-WINDOW:])
    if now < start / 5:
        seen = f"entropy fell from {start:.3g} to {now:.3g}: sampling hardly explores"
        advice = "lower the learning rate to a third; where samples are stale, also raise grpo.clip_high to 0.28"
        return Alarm("entropy", seen, "grpo.policy.lr", advice)
    return None


def drift_without_gain(history: History) -> Alarm | None:
    """The policy is twice as far from its reference as where the reward first was as high as it got.

    That is the farthest it was in the first quarter of the updates since, a hundred at most, in which distance settles;
    a reference that was renewed begins anew, with the distance from the one before as what is usual.
    """
    rows = [row for row in history if "policy/kl" in row and "reward/mean" in row]
    distances = column(rows, "policy/kl")
    renewed = [i for i in range(1, len(rows)) if 0.01 < distances[i - 1] > 10 * distances[i]]
    usual = max(distances[max(0, renewed[-1] - WINDOW) : renewed[-1]]) if renewed else 0.0
    rows = rows[renewed[-1] :] if renewed else rows
    if len(rows) < 3 * WINDOW:
        return None
    kl, rewards = smoothed(column(rows, "policy/kl")), column(rows, "reward/mean")
    reached, noise = smoothed(rewards), pstdev(rewards[-3 * WINDOW :]) / WINDOW**0.5
    enough = max(reached) - noise
    best = next(i for i, level in enumerate(reached) if level >= enough)
    soon = min(10 * WINDOW, apart(rows, best, len(kl) - 1) // 4)
    then = max(usual, *(kl[i] for i in range(best, len(kl)) if apart(rows, best, i) <= soon))
    if kl[-1] > max(2 * then, 0.01):
        seen = f"KL rose from {then:.3g} to {kl[-1]:.3g} while the reward stood still"
        return Alarm("drift", seen, "grpo.beta", "raise it tenfold, and again until the policy stays near")
    return None


def format_only(history: History) -> Alarm | None:
    """The form is learnt, the answers are not."""
    form, right = levels(history, "reward/format/mean"), levels(history, "reward/accuracy/mean")
    if form is None or right is None:
        return None
    began = mean(column(history, "reward/accuracy/mean")[:WINDOW])
    if form[1] >= 0.95 and right[1] <= began + 0.01 and right[1] < 0.95:
        seen = f"format is at {form[1]:.2f} but accuracy stays at {right[1]:.2f}"
        return Alarm("format-only", seen, "format_weight", "let the form count for a tenth of accuracy, not as much")
    return None


def hacking(history: History) -> Alarm | None:
    """A part of the reward rises while accuracy on held-out tasks falls: by ten points, or by three twice in a row.

    The more exams there are, the longer the stretch of them that counts as the best, since of many the single best is
    lucky; and a fall is three times what the mean of the last exams wanders by itself.
    """
    measured = {i: accuracy for i, row in enumerate(history) if (accuracy := held_out_accuracy(row)) is not None}
    if len(measured) < 2:
        return None
    places, values = list(measured), list(measured.values())
    span = max(1, len(values) // 4)
    levels = [mean(values[i : i + span]) for i in range(len(values) - span)]
    at = max(reversed(range(len(levels))), key=levels.__getitem__) + span - 1  # the latest of equals
    best, before, last = places[at], levels[at - span + 1], values[-min(3, span) :]
    now, margin = mean(last), 3 * wandering(values) / len(last) ** 0.5
    twice = len(values) - at > 2 and max(values[-2:]) <= before - max(0.03, margin)
    if now > before - max(0.1, margin) and not twice:
        return None
    for name in sorted(n for n in history[-1] if n.startswith("reward/") and n.count("/") == 2):
        near = [row for i, row in enumerate(history[: best + 1]) if apart(history, i, best) < WINDOW]
        then = mean_where_known(near, name)
        if then is None:  # before the first update
            then = mean_where_known(history[: WINDOW + 1], name)
        last = mean_where_known(history[-WINDOW:], name)
        if then is not None and last is not None and last > then + 0.02:
            part = name.split("/")[1]
            seen = f"{part} rose to {last:.2f} while held-out accuracy fell to {now:.2f}"
            past = apart(history, best, len(history) - 1)
            advice = f"end {past} updates earlier, where accuracy was {before:.2f}, or repair what {part} pays for"
            return Alarm("hacking", seen, "grpo.updates", advice)
    return None


def repetitive(history: History) -> Alarm | None:
    """Completions repeat themselves."""
    shares = column(history, "text/repetition")[-3:]
    if len(shares) == 3 and (share := mean(shares)) >= 0.3:
        advice = "raise it tenfold to hold on to the reference, or let repetition cost: rewards/shaping.py"
        return Alarm("repetition", f"{share:.0%} of the text repeats itself", "grpo.beta", advice)
    return None


def past_peak(history: History) -> Alarm | None:
    """The reward was clearly higher long ago."""
    known = [i for i, row in enumerate(history) if "reward/mean" in row]
    rewards = [history[i]["reward/mean"] for i in known]
    if len(rewards) < 5 * WINDOW:
        return None
    smooth = smoothed(rewards)
    peak = max(range(len(smooth)), key=smooth.__getitem__)
    rise = smooth[peak] - smooth[0]
    enough = max(0.2 * rise, 4 * wandering(rewards) / WINDOW**0.5)
    if len(smooth) - peak > 3 * WINDOW and rise > 0 and smooth[-1] < smooth[peak] - enough:
        past = apart(history, known[peak + WINDOW - 1], len(history) - 1)
        seen = f"the reward is {smooth[-1]:.3g}, {past} updates after {smooth[peak]:.3g}"
        return Alarm("past-peak", seen, "grpo.updates", f"end {past} updates earlier, or lower the learning rate")
    return None


def mismatch(history: History) -> Alarm | None:
    """Sampler and trainer give the same tokens different probabilities."""
    values = column(history, "policy/mismatch_kl")
    if values and 0.01 < values[-1] <= APART:
        seen = f"sampler and trainer differ by {values[-1]:.3g} nats for a token"
        advice = 'set it to "trainer", or let the engine sample in the format of the weights'
        return Alarm("mismatch", seen, "grpo.old_logprobs", advice)
    return None


def sampler_apart(history: History) -> Alarm | None:
    """Sampler and trainer are so far apart that no correction makes up for it."""
    values, shares = column(history, "policy/mismatch_kl"), column(history, "policy/effective_samples")
    if values and values[-1] > APART:
        seen = f"sampler and trainer differ by {values[-1]:.3g} nats for a token"
    elif shares and shares[-1] < EFFECTIVE:
        seen = f"importance weights between sampler and trainer leave {shares[-1]:.0%} of the tokens' worth"
    else:
        return None
    advice = "let the engine sample in the format of the weights, with the newest of them (less `ahead` and `spare`)"
    return Alarm("sampler-apart", seen, "engine.dtype", advice)


def ungraded(history: History) -> Alarm | None:
    """Part of the samples could not be graded."""
    share = history[-1].get("reward/ungraded", 0.0)
    if share >= 0.05:
        advice = "repair the reward that gives no verdict (the record has its reasons); above this share the run ends"
        return Alarm("ungraded", f"{share:.0%} of completions could not be graded", "grpo.max_ungraded", advice)
    return None


CHECKS: tuple[Callable[[History], Alarm | None], ...] = (
    not_finite,
    truncated,
    no_spread,
    entropy_collapse,
    drift_without_gain,
    format_only,
    hacking,
    repetitive,
    past_peak,
    mismatch,
    sampler_apart,
    ungraded,
)


def levels(history: History, name: str) -> tuple[float, float] | None:
    """A metric's mean over an early and over the last window; None before there are enough updates."""
    values = column(history, name)
    if len(values) < 3 * WINDOW:
        return None
    return mean(values[-3 * WINDOW : -2 * WINDOW]), mean(values[-WINDOW:])


def held_out_accuracy(row: Row) -> float | None:
    """The held-out accuracy of a row: the first pass@1 that an evaluation reported in it."""
    return next((row[name] for name in sorted(row) if name.startswith("eval/") and name.endswith("pass@1")), None)


def column(history: History, name: str) -> list[float]:
    """A metric's values, without the updates that did not measure it."""
    return [row[name] for row in history if name in row]


def apart(history: History, earlier: int, later: int) -> int:
    """Updates between two rows, those that are not remembered too."""
    first, last = (history[i].get("step", i) for i in (earlier, later))
    return round(last - first)


def wandering(values: Sequence[float]) -> float:
    """The standard deviation of values about whatever trend they have: by the median of their steps, so that a single
    fall is not part of it; 0 for fewer than five."""
    steps = [abs(after - before) for before, after in pairwise(values)]
    return median(steps) / 0.954 if len(steps) >= 4 else 0.0


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean over each window."""
    return [mean(values[i : i + WINDOW]) for i in range(len(values) - WINDOW + 1)]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def mean_where_known(rows: History, name: str) -> float | None:
    """The mean of a metric over the rows that have it."""
    values = [row[name] for row in rows if name in row]
    return mean(values) if values else None
