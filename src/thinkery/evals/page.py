"""The report as one HTML file: no script, no request, dark or light as the reader's system is.

Everything a model or a data set wrote is hostile: it is escaped, its control characters are removed, its
direction is isolated, and the page's policy forbids scripts and loads.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from thinkery.evals import paper
from thinkery.evals.claims import Claim
from thinkery.evals.findings import Answered, Findings, Funnel
from thinkery.evals.table import cells, columns, details, questions, write
from thinkery.pipeline.progress import duration
from thinkery.pipeline.read import StepRecord

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LONGEST = 6000
"""Characters of one completion that are shown."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #66707a; --line: #dfe3e8; --page: #fbfbfa; --card: #ffffff;
  --good: #2f7d43; --bad: #b8393f; --accent: #3b6fb0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e8; --soft: #98a1ab; --line: #343a41; --page: #16191c;
  --card: #1d2125; --good: #6dbf80; --bad: #e5787d; --accent: #82aee6 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem }
h1 { font-size: 1.9rem; margin: 0; letter-spacing: -.02em }
h2 { font-size: 1.2rem; margin: 3rem 0 .4rem; letter-spacing: -.01em }
p { max-width: 46rem; margin: .3rem 0 1rem }
.soft, figcaption { color: var(--soft) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; background: var(--card) }
th, td { padding: .45rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { font-weight: 600; font-size: .85rem; color: var(--soft) }
th:first-child, td:first-child { text-align: left; font-weight: 600 }
.prose td { text-align: left; white-space: normal }
td small { display: block; color: var(--soft) }
.paper, .paper td, .paper th { color: var(--soft); font-weight: 400; font-size: .85rem }
ul.claims { list-style: none; padding: 0; margin: 0 }
ul.claims li { padding: .5rem .8rem; border-left: 3px solid var(--good); background: var(--card); margin-bottom: .4rem }
ul.claims li.fails { border-color: var(--bad) }
ul.claims b { color: var(--good) } ul.claims .fails b { color: var(--bad) }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px }
figure svg { width: 100%; height: auto; max-height: 20rem }
details { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin-bottom: .6rem }
summary { padding: .6rem .9rem; cursor: pointer }
.answers { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(17rem, 1fr); overflow-x: auto }
.answers > div { padding: .6rem .9rem; border-top: 1px solid var(--line); border-right: 1px solid var(--line) }
pre { margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  font: .82rem/1.5 ui-monospace, monospace; max-height: 24rem; overflow-y: auto }
pre.thought { color: var(--soft); border-left: 2px solid var(--line); padding-left: .6rem }
.right { color: var(--good) } .wrong { color: var(--bad) }
"""


def report_page(found: Findings, figures: dict[str, str]) -> str:
    """The whole page; `figures` are SVG elements by caption."""
    body = "\n".join(
        [
            _head(found),
            _section("Stages", "95 % intervals over questions; a metric a stage does not have is –.", _stages(found)),
            _section("Claims of the paper", "Checked on the numbers above.", _claims(found)),
            _section("Against the base", _AGAINST, _differences(found)),
            _section(
                "Alarms",
                "What rang in the executions shown here, and what to change.",
                _rang(found),
            ),
            _section("Plots", "Over updates, the base dotted; then stage by stage.", _figures(figures)),
            _section("The same question, stage by stage", "The first recorded attempt of each.", _questions(found)),
            _section("Data funnels", "How many were counted under each reason.", _funnels(found.funnels)),
            _section("Steps", "What was made from what, and how long that took.", _made(found)),
            _section("Details", "Accuracy by kind, and what else was measured.", _details(found)),
            _section("What the paper reported", _PAPER, _paper()),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(found.title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Any value as text that cannot leave its place in the page."""
    plain = str(value).encode("utf-8", "replace").decode()
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", plain))


_AGAINST = "Mean difference in accuracy on the same questions, with the interval of paired differences."
_PAPER = (
    "DeepSeek-R1's published results, in percent, for the 671B-parameter model and its distilled students. "
    "Other models, other questions: these numbers are for the shape of the curve, not for comparison."
)


def _head(found: Findings) -> str:
    return f'<h1>{text(found.title)}</h1><p class="soft">{text(found.subtitle)}</p>'


def _section(title: str, about: str, content: str) -> str:
    """A section, or nothing when there is nothing to put in it."""
    if not content:
        return ""
    return f'<section><h2>{text(title)}</h2><p class="soft">{text(about)}</p>{content}</section>'


def _stages(found: Findings) -> str:
    metrics = columns(found.stages)
    rows = [
        [text(stage), *(_cell(*cell) for cell in row), str(questions(found.stages[stage]))]
        for stage, row in cells(found.stages, metrics).items()
    ]
    return _table(["stage", *metrics, "n"], rows) if rows else ""


def _claims(found: Findings) -> str:
    items = "".join(map(_claim, found.claims))
    return f'<ul class="claims">{items}</ul>' if items else ""


def _claim(claim: Claim) -> str:
    style, verdict = ("holds", "holds") if claim.holds else ("fails", "does not hold")
    figures = ", ".join(f"{name} {value:.3g}" for name, value in claim.figures.items())
    sentence = claim.text + (" · gated" if claim.gated else "")
    return f'<li class="{style}"><b>{verdict}</b> · {text(sentence)} <span class="soft">{text(figures)}</span></li>'


def _differences(found: Findings) -> str:
    rows = [
        [text(stage), _cell(*write(estimate, share=True)), str(estimate["n"])]
        for stage, estimate in found.differences.items()
    ]
    return _table(["stage", "accuracy − base", "shared questions"], rows) if rows else ""


def _rang(found: Findings) -> str:
    rows = [[text(cell) for cell in (a.step, a.kind, a.message, a.advice, a.setting)] for a in found.alarms]
    return _table(["step", "alarm", "seen", "advice", "setting"], rows, "prose") if rows else ""


def _made(found: Findings) -> str:
    rows = [
        [text(cell) for cell in (one.name, one.kind, ", ".join(dict.fromkeys(one.inputs.values())), _took(one))]
        for one in found.steps
    ]
    return f"<details><summary>{len(rows)} steps</summary>{_table(['step', 'makes', 'from', 'took'], rows)}</details>"


def _took(step: StepRecord) -> str:
    return duration(step.seconds) if step.status == "done" else step.status


def _figures(figures: dict[str, str]) -> str:
    items = [f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>" for caption, svg in figures.items()]
    return f'<div class="figures">{"".join(items)}</div>' if items else ""


def _questions(found: Findings) -> str:
    return "".join(_question(one) for one in found.questions)


def _question(one: Answered) -> str:
    answers = "".join(_answer(stage, row) for stage, row in one.answers.items())
    gold = f'<p class="soft">reference: {text(one.gold)}</p>' if one.gold is not None else ""
    asked = f'<pre dir="auto">{text(_cut(one.prompt))}</pre>'
    title = text(_cut(" ".join(one.prompt.split()), 110))
    return (
        f"<details><summary><bdi>{title}</bdi></summary>"
        f'<div style="padding:0 .9rem">{asked}{gold}</div><div class="answers">{answers}</div></details>'
    )


def _answer(stage: str, row: dict) -> str:
    scores = {name: score["value"] for name, score in row["scores"].items()}
    right = scores.get("accuracy")
    verdict = "" if right is None else "right" if right >= 1 else "wrong"
    thought = f'<pre class="thought" dir="auto">{text(_cut(row["thought"]))}</pre>' if row["thought"] else ""
    listed = ", ".join(f"{name} {'ungraded' if value is None else f'{value:.2g}'}" for name, value in scores.items())
    return (
        f'<div><b>{text(stage)}</b> <span class="{verdict}">{verdict}</span> '
        f'<span class="soft">{row["tokens"]} tokens, {text(row["finish"])}</span>'
        f'{thought}<pre dir="auto">{text(_cut(row["answer"]))}</pre><small class="soft">{text(listed)}</small></div>'
    )


def _funnels(funnels: Sequence[Funnel]) -> str:
    return "".join(map(_funnel, funnels))


def _funnel(funnel: Funnel) -> str:
    rows = [[text(reason), str(count)] for reason, count in funnel.counts.items()]
    summary = f"<summary><b>{text(funnel.step)}</b> · {funnel.rows} rows</summary>"
    return f"<details open>{summary}{_table(['reason', 'count'], rows) if rows else ''}</details>"


def _details(found: Findings) -> str:
    metrics = details(found.stages)
    if not metrics:
        return ""
    by_stage = cells(found.stages, metrics)
    rows = [[text(metric), *(_cell(*by_stage[stage][i]) for stage in by_stage)] for i, metric in enumerate(metrics)]
    return f"<details><summary>{len(metrics)} more metrics</summary>{_table(['metric', *by_stage], rows)}</details>"


def _paper() -> str:
    stages = [[name, *map(_published, values)] for name, values in paper.RESULTS.items()]
    small = [[name, *map(_published, values)] for name, values in paper.DISTILLED.items()]
    return (
        f"<details><summary>published numbers</summary>{_table(['benchmark', *paper.STAGES], stages, 'paper')}"
        f"{_table(['distilled', *paper.DISTILLED_COLUMNS], small, 'paper')}</details>"
    )


def _published(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """A table from plain headings and cells that are already HTML."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{style}"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(value: str, interval: str) -> str:
    return f"{text(value)}<small>{text(interval)}</small>" if interval else text(value)


def _cut(value: str, longest: int = LONGEST) -> str:
    return value if len(value) <= longest else f"{value[:longest]}… ({len(value) - longest} more characters)"
