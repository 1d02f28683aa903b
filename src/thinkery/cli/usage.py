"""`thinkery usage`: what the server's requests used and cost."""

from __future__ import annotations

import argparse
from contextlib import closing

from thinkery.cli import serve, terminal
from thinkery.cli.keys import dollars


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to sum by."""
    parser.add_argument("--by", default="key", metavar="key,day,model", help="what to sum by (default key)")
    parser.add_argument("--json", action="store_true", help="machine output on stdout; costs are in nano-USD")
    serve.ledger_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Print one row per group."""
    from thinkery.serve.ledger import Ledger

    with closing(Ledger(args.ledger)) as ledger:
        rows = ledger.usage([name for name in args.by.split(",") if name])
    if args.json:
        terminal.emit(rows)
    elif rows:
        shown = [[*list(row.values())[:-1], dollars(row["cost"])] for row in rows]
        print(terminal.table(shown, header=list(rows[0])))
