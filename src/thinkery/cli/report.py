"""`thinkery report`: the stage table, and the same with plots as HTML, Markdown and JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, terminal
from thinkery.errors import GateFailed, InputError

if TYPE_CHECKING:
    from thinkery.evals.claims import Stages


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where to write."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run directory (default: the latest run)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write report.html, .md, .json (default RUN)")
    parser.add_argument("--gate", action="store_true", help="exit with 3 when a gated claim does not hold")
    parser.add_argument("--json", action="store_true", help="report.json on stdout, and no files")


def main(args: argparse.Namespace) -> None:
    """Gather what the run measured so far and say it."""
    from thinkery.evals.findings import evaluations, gather
    from thinkery.evals.report import compose, report_data
    from thinkery.evals.table import claim_line
    from thinkery.pipeline.read import open_run

    record = open_run(args.run or models.latest_run())
    measured = evaluations(record)
    if not measured:
        raise InputError("nothing was evaluated yet", where=str(record.path), hint=f"thinkery show {record.path}")
    found = gather(record, measured)
    if args.json:
        terminal.emit(report_data(found))
    else:
        print_stages(found.stages)
        for claim in found.claims:
            print(claim_line(claim))
        data, files = compose(found)
        print(f"wrote {write_report(args.out or record.path, data, files)}")
    failed = [claim.text for claim in found.claims if claim.gated and not claim.holds]
    if args.gate and failed:
        raise GateFailed(f"{len(failed)} gated claims do not hold", where=str(record.path), found="; ".join(failed))


def print_stages(stages: Stages) -> None:
    """The stage table on stdout; as wide as it needs where that is not a terminal."""
    from rich.console import Console

    from thinkery.evals.table import terminal_table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(terminal_table(stages))


def write_report(folder: Path, data: dict, files: dict[str, str]) -> Path:
    """Write report.json and the files beside it; returns the page."""
    from thinkery.pipeline.files import write_file, write_json

    write_json(folder / "report.json", data)
    for name, content in files.items():
        write_file(folder / name, content)
    return folder / "report.html"
