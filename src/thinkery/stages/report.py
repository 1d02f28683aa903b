"""The last stage: every evaluation of the run in one report, with the paper's claims checked on it."""

from __future__ import annotations

from thinkery.config import Config
from thinkery.evals.findings import gather
from thinkery.evals.report import compose
from thinkery.pipeline.artifact import Report
from thinkery.pipeline.read import open_run
from thinkery.pipeline.run import Run


class ReportConfig(Config):
    """How the report is written."""

    title: str = ""
    """Heading of the page."""

    questions: int = 6
    """How many questions are shown with every stage's answer side by side."""


def report(run: Run, cfg: ReportConfig, **reports: Report) -> Report:
    """Put the evaluations, in the order they are wired, beside the curves and data funnels of the run."""
    record = open_run(run.root)
    found = gather(record, list(reports.values()), title=cfg.title, questions=cfg.questions)
    for claim in found.claims:
        run.event("claim", claim=claim.id, holds=claim.holds, **claim.figures)
    data, files = compose(found)
    return run.save_report(data, files)
