"""`thinkery view`: runs in the browser, read-only and on this machine only; or the same as files."""

from __future__ import annotations

import argparse
from pathlib import Path

from thinkery.cli import models, terminal
from thinkery.errors import EnvironmentLacks

PORT = 7860
LEDGER = models.RUNS / "serve.db"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where to show them."""
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="run directories, or folders of them (default: runs/); several can be laid over each other",
    )
    parser.add_argument("--host", default="127.0.0.1", help="another address shows every sample to whoever reaches it")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 takes a free one")
    parser.add_argument(
        "--ledger", type=Path, default=LEDGER, help=f"a server's ledger, for its page (default {LEDGER})"
    )
    parser.add_argument("--export", type=Path, metavar="DIR", help="write a static site instead")
    parser.add_argument(
        "--steps",
        type=int,
        default=3,
        metavar="N",
        help="with --export: files of attempts shown of each step (default 3)",
    )


def main(args: argparse.Namespace) -> None:
    """Serve the pages until interrupted, or write them."""
    try:
        from thinkery.view import export, server
    except ImportError as error:
        raise EnvironmentLacks(
            f"the pages need {error.name}", where="thinkery view", hint="pip install 'thinkery[view]'"
        ) from error
    from thinkery.view.library import Library

    paths = args.runs or [models.RUNS]
    if args.export:
        count = export.write_site(Library(paths, most=args.steps), args.ledger, args.export)
        print(f"wrote {count} pages; open {args.export / 'index.html'}")
        return
    server.serve(Library(paths), args.host, args.port, args.ledger, say=terminal.remark)
