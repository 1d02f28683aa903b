"""Write the measured tables into the pages that show them, so that they say what bench/results/ says.

python -m bench.tables            fills README.md and pages of docs/ between their markers
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
COLUMNS = ("pass@1", "general", "preference", "harmless", "format", "language")


def main() -> None:
    """Fill every table whose results are there."""
    for name, (page, result, write) in TABLES.items():
        if (RESULTS / result).exists():
            path = ROOT / page
            path.write_text(filled(path.read_text(), name, write(json.loads((RESULTS / result).read_text()))))


def filled(text: str, name: str, table: str) -> str:
    """The page with the table between its markers."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return re.sub(rf"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


def demo(found: Mapping[str, Any]) -> str:
    """The stage table of the demo."""
    lines = [
        "Per cent with 95 % intervals over questions: 400 held-out problems (pass@1, format, language) and 180\n"
        f"general prompts (the rest), four attempts at each. One run on two cores, {found['date']}: "
        f"{found['wall_s'] / 60:.1f} minutes,\n{found['peak_memory_gb']:.2f} GB resident at most "
        "(`bench/results/tiny.json`). General, preference and harmless are judged by\nthe world's own rules, which "
        "train nothing." + (f"\n{found['note']}" if "note" in found else ""),
        "",
        by_stage(found, dict(zip(COLUMNS, COLUMNS, strict=True))),
    ]
    return "\n".join(lines)


REAL = {
    "pass@1": "all",
    "pass@1/environment=products": "products",
    "pass@1/environment=chain_sum": "sums",
    "pass@1/environment=basic_arithmetic": "arithmetic",
    "pass@1/environment=lcm": "multiples",
    "pass@1/kind=math": "GSM8K, MATH",
    "pass@1/kind=code": "MBPP",
    "format": "format",
}
"""What is shown of real weights: a metric, and its title."""


def real(found: Mapping[str, Any]) -> str:
    """The stage table of the whole recipe on real weights."""
    return by_stage(found, REAL)


def puzzles(found: Mapping[str, Any]) -> str:
    """What practice on puzzles brings, by kind: before and after, the gain over the seeds, and each seed's."""
    seeds, gains = found["seeds"], found["gains"]["trained"]
    names = " | ".join(f"seed {seed['seed']}" for seed in seeds)
    lines = [f"| kind | before | after | gain | {names} |"]
    lines += [f"|---|{'--:|' * (3 + len(seeds))}"]
    for metric in (metric for metric in REAL if metric in gains):
        before, after = (100 * found["mean"][stage][metric]["value"] for stage in ("base", "trained"))
        each = [seed["stages"]["trained"][metric]["value"] - seed["stages"]["base"][metric]["value"] for seed in seeds]
        cells = " | ".join(f"{100 * one:+.1f}" for one in each)
        lines.append(f"| {REAL[metric]} | {before:.1f} | {after:.1f} | {interval(gains[metric])} | {cells} |")
    return "\n".join(lines)


def by_stage(found: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """A line for each stage with these metrics, under these titles, and the length of its answers."""
    lines = [f"| stage | {' | '.join(columns.values())} | tokens |", f"|---|{'--:|' * (len(columns) + 1)}"]
    for stage, metrics in found["stages"].items():
        cells = [interval(metrics[name]) for name in columns]
        lines.append(f"| {stage} | {' | '.join(cells)} | {metrics['length']['value']:.0f} |")
    return "\n".join(lines)


def ranks(found: Mapping[str, Any]) -> str:
    """How far two ranks are from one."""
    lines = [f"{found['date']}, {found['machine']['cpu']} (`bench/results/ranks.json`).", ""]
    lines += ["| | updates | losses | weights |", "|---|--:|--:|--:|"]
    for way, one in found["apart"].items():
        lines.append(f"| {way} | {one['updates']} | {one['losses']:.1e} | {one['weights']:.1e} |")
    return "\n".join(lines)


def clusters(found: Mapping[str, Any]) -> str:
    """An update of a 7B on clusters of each size."""
    lines = ["| GPUs | an update | tokens/s | arithmetic in use | memory | cost of an update | what limits |"]
    lines += ["|--:|--:|--:|--:|--:|--:|---|"]
    for one in found["simulated"]["sizes"]:
        cost = one["cost"] / found["simulated"]["updates"]
        limit = one["limit"] if one["fits"] else "does not fit"
        rates = f"{one['update_s'] / 60:.1f} min | {one['tokens_per_s']:,.0f} | {one['utilisation']:.0%}"
        lines.append(f"| {one['gpus']} | {rates} | {one['memory'] / 1e9:.1f} GB | {cost:.2f} | {limit} |")
    return "\n".join(lines)


def simulation(found: Mapping[str, Any]) -> str:
    """The simulation beside two cores."""
    kinds = ("sampling", "learning", "update")
    lines = [f"| ranks, questions | {' | '.join(f'{kind}, predicted | measured' for kind in kinds)} | off by |"]
    lines += [f"|---|{'--:|' * 7}"]
    for row in found["updates"]:
        said, took = row["predicted_s"], row["measured_s"]
        cells = " | ".join(f"{said[kind]:.2f} s | {took[kind]:.2f} s" for kind in kinds)
        lines.append(f"| {row['ranks']}, {row['questions']} | {cells} | {said['update'] / took['update'] - 1:+.0%} |")
    return "\n".join(lines)


def plans(found: Mapping[str, Any]) -> str:
    """Every plan beside its run."""
    made = [(name, one) for name, one in found["plain"].items()]
    made.append((f"{found['taught']['recipe']}, `--like` another run of it", found["taught"]))
    lines = ["| plan | date | time | memory | tokens | within 25 % |", "|---|---|--:|--:|--:|---|"]
    for name, one in made:
        kinds = [f"{one['totals'][kind]['off']:+.0%}" for kind in ("seconds", "memory", "tokens")]
        lines.append(f"| {name} | {one['date']} | {' | '.join(kinds)} | {'yes' if one['holds'] else 'no'} |")
    return "\n".join(lines)


def interval(estimate: Mapping[str, float]) -> str:
    """`14.7 (12.9–16.6)`."""
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})"


def claims(found: Mapping[str, Any]) -> str:
    """Every claim with its figures, and in how many seeds it holds."""
    seeds = found["seeds"]
    lines = ["| claim | holds | figures, mean over seeds |", "|---|---|---|"]
    for place, claim in enumerate(seeds[0]["claims"]):
        each = [seed["claims"][place] for seed in seeds]
        figures = {name: fmean(one["figures"][name] for one in each) for name in claim["figures"]}
        shown = ", ".join(f"{name} {number(value)}" for name, value in figures.items())
        gate = "" if claim["gated"] else " (not gated)"
        lines.append(f"| {claim['text']}{gate} | {sum(one['holds'] for one in each)} of {len(seeds)} | {shown} |")
    return "\n".join(lines)


def reported(found: Mapping[str, Any]) -> str:
    """What is told and not gated, and accuracy by the number of steps, seed by seed."""
    seeds = found["seeds"]
    names = (f"seed {seed['seed']}" for seed in seeds)
    lines = [f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(seeds)}"]
    for name in seeds[0]["reported"]:
        values = (seed["reported"][name] for seed in seeds)
        lines.append(f"| {name} | {' | '.join(f'{value:.3g}' for value in values)} |")
    for stage in ("base", "zero", "align", "distill"):
        for metric in (metric for metric in seeds[0]["stages"][stage] if metric.startswith("pass@1/difficulty=")):
            values = (seed["stages"][stage][metric]["value"] for seed in seeds)
            lines.append(f"| {stage}, {metric.partition('/')[2]} | {' | '.join(f'{value:.3g}' for value in values)} |")
    return "\n".join(lines)


def ablations(found: Mapping[str, Any]) -> str:
    """Accuracy, form, language, preference, length and cost of every variant."""
    lines = [
        "| variant | pass@1 | format | language | preference | tokens | TFLOPs | GB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, variant in found["variants"].items():
        shares = (f"{100 * variant[key]['value']:.1f}" for key in ("format", "language", "preference"))
        length, spent, memory = variant["length"]["value"], variant["train_flops"] / 1e12, variant["peak_memory_gb"]
        cells = [interval(variant["pass@1"]), *shares, f"{length:.0f}", f"{spent:.1f}", f"{memory:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def peers(found: Mapping[str, Any], name: str = "peers.json") -> str:
    """Ours beside each peer, with the bar."""
    machine = found["machine"]
    gflops, read = (spread(row["limits"][key] for row in found["rows"]) for key in ("bf16_gflops", "read_gb_s"))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    lines = [
        f"{found['date']}, {machine['cpu']}, {machine['threads']} threads; {gflops} GFLOP/s in bfloat16, reads {read} "
        f"GB/s, measured before the rows; {versions} (`bench/results/{name}`).",
        "",
        "| | ours | peer | ratio | bar | holds |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in found["rows"]:
        ours, peer, ratio = ("" if row[key] is None else rounded(row[key]) for key in ("ours", "peer", "ratio"))
        bar = f"{'≥' if row['higher'] else '≤'} {row['bar']:g}" if row["bar"] else ""
        holds = "failed" if row.get("failed") else ("yes" if row["holds"] else "no") if bar else ""
        lines.append(f"| {row['name']}, {row['unit']} | {ours} | {peer} | {ratio} | {bar} | {holds} |")
    return "\n".join(lines)


def serving(found: Mapping[str, Any]) -> str:
    """Our server beside vLLM's: throughput, time to the first token, and cached prefixes."""
    lines = [
        f"{found['date']}, {found['machine']['cpu']}, {found['machine']['cores']} cores (`bench/results/serve.json`); "
        "ours / vLLM's,",
        "times in seconds. Asked: 1.2 times the throughput, first tokens no later, a cached prefix 5 times sooner.",
        "",
        "| model | clients | tokens/s | ratio | first token, p50 | p99 | same answers |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for model, both in found["models"].items():
        for count, ours in both["ours"]["clients"].items():
            theirs, ratio = both["vllm"]["clients"][count], both["ratios"][count]["tokens_per_s"]
            pairs = [
                f"{rounded(ours[name])} / {rounded(theirs[name])}"
                for name in ("tokens_per_s", "first_p50_s", "first_p99_s")
            ]
            same = f"{both['same_answers']:.0%}" if count == next(iter(both["ours"]["clients"])) else ""
            lines.append(f"| {model} | {count} | {pairs[0]} | {ratio:.2f} | {pairs[1]} | {pairs[2]} | {same} |")
    lines += ["", "| model | prefix, tokens | new | again | times sooner |", "|---|--:|--:|--:|--:|"]
    for model, both in found["models"].items():
        ours, theirs = both["ours"]["cached_prefix"], both["vllm"]["cached_prefix"]
        pairs = [f"{rounded(ours[name])} / {rounded(theirs[name])}" for name in ("new_s", "again_s", "times_sooner")]
        lines.append(f"| {model} | {ours['tokens']} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def faults(found: Mapping[str, Any]) -> str:
    """What came of each kind of fault."""
    machine = found["machine"]
    lines = [
        f"{found['date']}, {machine['cpu']}, {machine['cores']} cores, other work beside it "
        "(`bench/results/faults.json`);\nseconds, the longest of all trials of a kind.",
        "",
        "| fault | trials | recovered | stopped (exit code) | to stop | to recovery | record whole | weights equal |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, of in found["kinds"].items():
        codes = ", ".join(map(str, of["exit_codes"]))
        stopped = f"{of['stopped_resumable']} ({codes})" if of["stopped_resumable"] else "0"
        times = (
            "" if of[name] is None else f"{of[name]:.0f}" for name in ("longest_to_stop_s", "longest_to_recovery_s")
        )
        cells = [of["trials"], of["recovered"], stopped, *times, of["record_complete"], of["weights_equal"]]
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def overhead(found: Mapping[str, Any]) -> str:
    """Processor time per token beside the engine's, and tokens a second, before and now where both are known."""
    earlier = found.get("before", {})
    lines = [
        f"{found['date']}, {found['machine']['cpu']}, {found['machine']['cores']} cores, the engine on "
        f"{found['threads']} (`bench/results/overhead.json`); milliseconds of",
        "processors per token, tokens a second; before / now.",
        "",
        "| clients | server's process | engine's process | the engine alone | tokens/s | the engine alone |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for count, now in found["clients"].items():
        both = [one for one in (earlier.get(count), now) if one is not None]
        names = ("server_ms", "replica_ms", "engine_alone_ms", "tokens_per_s", "engine_alone_tokens_per_s")
        cells = [
            " / ".join(f"{one[name]:.3f}" if "_ms" in name else f"{one[name]:.0f}" for one in both) for name in names
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """A share with three decimals, anything large in powers of ten."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.2g}"


def spread(values: Iterable[float]) -> str:
    """The least and the most of them, in whole numbers."""
    whole = sorted(round(value) for value in values)
    least, most = str(whole[0]), str(whole[-1])
    return least if least == most else f"{least} to {most}"


def rounded(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


TABLES: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], str]]] = {
    "demo table": ("README.md", "tiny.json", demo),
    "puzzles table": ("docs/findings.md", "smollm2-puzzles-seeds.json", puzzles),
    "real table": ("docs/findings.md", "smollm2.json", real),
    "claims table": ("docs/findings.md", "claims.json", claims),
    "reported table": ("docs/findings.md", "claims.json", reported),
    "peers table": ("docs/performance.md", "peers.json", peers),
    "slower table": ("docs/performance.md", "peers-slower.json", partial(peers, name="peers-slower.json")),
    "serving table": ("docs/serve.md", "serve.json", serving),
    "faults table": ("docs/scale.md", "faults.json", faults),
    "overhead table": ("docs/serve.md", "overhead.json", overhead),
    "ablations table": ("docs/findings.md", "ablations.json", ablations),
    "ranks table": ("docs/scale.md", "ranks.json", ranks),
    "clusters table": ("docs/scale.md", "cluster.json", clusters),
    "simulation table": ("docs/scale.md", "cluster.json", simulation),
    "plan table": ("docs/performance.md", "plan.json", plans),
}
"""By marker: the page, the result, and how it is written."""


if __name__ == "__main__":
    main()
