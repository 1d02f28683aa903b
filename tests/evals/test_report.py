"""The report of a real run directory, built by real steps whose models wrote the worst they could."""

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console

from thinkery.config import Config
from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.errors import WiringError
from thinkery.evals.findings import evaluations, gather
from thinkery.evals.measure import measure
from thinkery.evals.metrics import Estimate
from thinkery.evals.page import text
from thinkery.evals.report import compose
from thinkery.evals.table import terminal_table
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.build import build
from thinkery.pipeline.read import open_run
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.stages.report import ReportConfig, report

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \x00\x1b[31m\u202eevil \"' & ${x}"


class Learn(Config):
    """A stage that only records curves."""

    updates: int = 3


class Exam(Config):
    """An evaluation with a made-up share of right answers."""

    stage: str
    right: float


def learn(run: Run, cfg: Learn) -> Model:
    """Write metrics as reinforcement learning does."""
    for update in range(cfg.updates):
        values = {
            "reward/mean": 0.1 * update,
            "reward/accuracy/mean": 0.2 * update,
            "completion/length_mean": 20.0 + update,
        }
        run.metrics(update, values | ({"eval/exam/pass@1": 0.3 * update} if update else {}))
    run.alarm("truncated", "every completion <b>was</b> cut", "grpo.max_tokens", "allow more")
    return run.save_model(lambda folder: (folder / "config.json").write_text("{}") and None)


def draft(run: Run) -> Dataset:
    """A data set with a funnel."""
    writer = run.dataset()
    writer.count("generated", 7)
    writer.count("<b>unreadable</b>", 6)
    writer.add({"text": "kept"}, key="0")
    return writer.finish()


def examine(run: Run, cfg: Exam, model: Model) -> Report:
    """Judge twenty questions, two attempts each."""
    groups = [attempts(f"q{i}", cfg.right > i / 20, cfg.stage) for i in range(20)]
    run.rollouts(0, groups)
    return run.save_report({"stage": cfg.stage, "metrics": measure(groups)})


def attempts(id: str, right: bool, stage: str) -> Group:
    task = Task(id, f"Question {id} {HOSTILE}", "math", "4", "en")
    said = Completion(HOSTILE, (1, 2, 3), thought=f"{stage} {HOSTILE}", answer=HOSTILE, closed=True)
    return Group(
        task, tuple(Rollout(task, (), said, {"accuracy": Score(float(right))}, float(right), i) for i in (0, 1))
    )


def graph(**rights: float):
    zero, data = step("zero", learn, Learn()), step("cold-data", draft)
    exams = {f"{n}-exam": step(f"{n}-exam", examine, Exam(stage=n, right=r), model=zero) for n, r in rights.items()}
    wired = {name.replace("-", "_"): one for name, one in exams.items()}
    last = step("report", report, ReportConfig(title="A <small> run"), **wired)
    return {"zero": zero, "cold-data": data, **exams, "report": last}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    dir = tmp_path_factory.mktemp("run")
    return dir, build(graph(base=0.15, zero=0.9), dir)["report"]


class Reader(HTMLParser):
    """Collects what a browser would find."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def page(report: Report) -> str:
    return (report.folder / "report.html").read_text(encoding="utf-8")


def test_the_data_has_stages_claims_differences_and_funnels(made):
    data = made[1].data
    assert list(data["stages"]) == ["base", "zero"]
    assert data["stages"]["base"]["pass@1"]["value"] == pytest.approx(0.15)
    assert data["stages"]["zero"]["pass@1"]["n"] == 20
    (claim,) = data["claims"]
    assert {k: claim[k] for k in ("id", "gated", "holds")} == {"id": "zero-multiplies", "gated": True, "holds": True}
    assert claim["figures"] == {"base pass@1": pytest.approx(0.15), "zero pass@1": pytest.approx(0.9)}
    assert data["differences"]["zero"]["value"] == pytest.approx(0.75)
    assert data["funnels"] == {"cold-data": {"rows": 1, "counts": {"generated": 7, "<b>unreadable</b>": 6}}}


def test_hostile_text_stays_text_and_the_page_asks_for_nothing(made):
    found = Reader(page(made[1]))
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "form"}
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert not re.match(r"https?:|//", attributes.get("src") or attributes.get("href") or "")
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", page(made[1]))


def test_the_report_says_what_rang_and_how_long_steps_took(made):
    shown, data = page(made[1]), made[1].data
    assert "<td>every completion &lt;b&gt;was&lt;/b&gt; cut</td><td>allow more</td><td>grpo.max_tokens</td>" in shown
    assert data["alarms"] == [
        {
            "step": "zero", "kind": "truncated", "message": "every completion <b>was</b> cut", "advice": "allow more",
            "setting": "grpo.max_tokens",
        }
    ]  # fmt: skip
    assert data["steps"]["zero"]["status"] == "done"
    assert data["curves"]["reward"]["zero"] == [[0, 0.0], [1, 0.1], [2, 0.2]]
    assert (
        "truncated: every completion <b>was</b> cut (allow more, `grpo.max_tokens`)"
        in (made[1].folder / "report.md").read_text()
    )


def test_half_a_surrogate_pair_cannot_stop_the_page():
    assert text("a\ud800<") == "a?&lt;"


def test_the_page_shows_both_stages_answers_plots_and_the_papers_numbers_apart(made):
    shown = page(made[1])
    assert "A &lt;small&gt; run" in shown
    assert shown.count("<details><summary><bdi>Question") == 6
    assert "&lt;script&gt;alert(1)" in shown
    assert shown.count("<svg") == len(list((made[1].folder / "figures").glob("*.svg")))
    assert "prefers-color-scheme: dark" in shown
    assert shown.index("79.8") > shown.index("What the paper reported") > shown.index("Data funnels")
    assert "accuracy over zero&#x27;s updates" in shown


def test_the_plot_of_zero_has_held_out_points_and_the_base(made):
    plot = (made[1].folder / "figures/accuracy-over-zero-s-updates.svg").read_text()
    for label in ("training questions", "held-out exam", "base"):
        assert label in plot


def test_markdown_has_the_table_with_intervals_and_the_verdict(made):
    written = (made[1].folder / "report.md").read_text()
    assert re.search(r"\| zero \| 90\.0 % \(\d\d\.\d–9\d\.\d\) \|", written)
    assert "- holds: RL alone" in written
    assert "**cold-data**: 1 rows (generated 7" in written


def test_the_command_line_makes_the_same_report_again_from_the_directory(made):
    dir, artifact = made
    record = open_run(dir)
    data, files = compose(gather(record, evaluations(record), title="A <small> run"))
    assert json.loads(json.dumps(data)) == artifact.data
    assert files["report.html"] == page(artifact)


def test_the_terminal_table_fits_and_shows_intervals(made):
    console = Console(width=80, file=io.StringIO())
    with console.capture() as printed:
        console.print(terminal_table(made[1].data["stages"]))
    assert "pass@1" in printed.get()
    assert "90.0 %" in printed.get()
    assert "…" not in printed.get()


@pytest.mark.parametrize(("share", "told"), [(0.03, False), (0.04, True)])
def test_the_terminal_table_shows_truncation_where_any_stage_is_cut_in_more_than_a_few(share, told):
    def estimate(value: float) -> Estimate:
        return {"value": value, "low": value * 0.98, "high": min(1.0, value * 1.02), "n": 580}

    names = ("pass@1", "general", "preference", "harmless", "format", "language")
    whole = {**{name: estimate(0.98) for name in names}, "truncated": estimate(0.0), "length": estimate(30.2)}
    stages = {"cold-start": whole, "reason": whole | {"truncated": estimate(share)}}
    console = Console(width=80, file=io.StringIO())
    with console.capture() as printed:
        console.print(terminal_table(stages))
    assert (f"{share:.1%}".replace("%", " %") in printed.get()) == told
    assert "…" not in printed.get()
    assert all("98.0 %" in line for line in printed.get().splitlines() if line.startswith(("cold-start", "reason")))


def test_only_reports_can_be_wired_into_the_report():
    zero = step("zero", learn, Learn())
    with pytest.raises(WiringError, match="input 'zero' must be a Report"):
        step("report", report, ReportConfig(), zero=zero)


def test_a_run_with_nothing_to_say_still_has_a_report(tmp_path):
    made = build({"report": step("report", report, ReportConfig())}, tmp_path)["report"]
    assert made.data["stages"] == {}
    assert "What the paper reported" in page(made)


def test_the_report_and_the_tasks_need_no_torch():
    code = "import sys, thinkery.stages.report, thinkery.tasks.sources; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
