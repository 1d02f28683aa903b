"""`thinkery score KIND < lines.jsonl`: judge what was produced elsewhere; one JSON result a line, a summary last."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, get_args

KINDS = {
    "math": "{gold, answer}: is the answer mathematically equal?",
    "samples": "{id, gold, responses}: pass@1, cons@k (a tie earns what a random choice would) and pass@k",
    "code": '{program, tests: [{stdin, stdout}] or test: "assertions", entry_point?}: does a program pass its tests?',
    "extract-code": "{output}: the program that would be graded, which is the last fenced block",
    "ifeval": "{prompt, response, instruction_id_list, kwargs}: IFEval, strict and loose",
    "alpaca-eval": "{index, preference, output_1, output_2}: AlpacaEval 2 win rates, plain and length-controlled",
    "alpaca-judge": "{top_logprobs, is_switched}: the preference of AlpacaEval's judge, 1 (baseline) to 2 (model)",
    "arena-hard": "{model_a, model_b, winner}: Arena-Hard scores against a baseline",
    "arena-verdict": "{text}: the verdict of Arena-Hard's judge",
    "codeforces": "{standings: [{points, penalty, rating}], points, penalty}: rank, rating and percentile",
    "pass-at-k": "{n, c, k}: the chance that k of n attempts, c of them right, hold a right one",
    "language": "{question, thought, target?}: the share of the thought in the language of the question",
}
"""What each kind reads and says; `evals.kinds` judges them."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The kind and its options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, KINDS))
    parser.epilog = (
        "kinds and the fields of their lines:\n"
        + "\n".join(f"  {name:<{width}}  {about}" for name, about in KINDS.items())
        + "\n\nAlpacaEval's length control and Codeforces' percentile read files of THINKERY_DATA."
        '\nA line that cannot be used gets {"error": …}, the others are judged, and the exit code is 1.'
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help="what the lines are; see below")
    parser.add_argument("--summary", action="store_true", help="print the summary only")
    parser.add_argument(
        "--baseline", default="gpt-4-0314", metavar="MODEL", help="arena-hard: the model that scores 50"
    )
    parser.add_argument(
        "--style",
        nargs="?",
        const="both",
        choices=styles(),
        help="arena-hard: control for length and markdown (both), or one; lines then need conv_metadata",
    )
    parser.add_argument(
        "--sandbox",
        choices=("bubblewrap", "process"),
        default="bubblewrap",
        help="code: what programs run in; process isolates NOTHING (default bubblewrap)",
    )


def styles() -> tuple[str, ...]:
    """What Arena-Hard's style control can be about."""
    from thinkery.evals.arena import Style

    return get_args(Style)


def main(args: argparse.Namespace) -> int:
    """Judge every line of stdin; returns 1 when some could not be used."""
    from thinkery.evals.kinds import KINDS as ways
    from thinkery.evals.score import Options, judged

    kind = ways[args.kind](Options(baseline=args.baseline, style=args.style, sandbox=args.sandbox))
    unusable = 0
    for result in judged(kind, sys.stdin.buffer):
        unusable += "error" in result
        if not args.summary:
            emit(result)
    emit(kind.tally.summary() | ({"errors": unusable} if unusable else {}))
    return 1 if unusable else 0


def emit(result: dict[str, Any]) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(result, allow_nan=False))
