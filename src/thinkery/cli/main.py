"""The command `thinkery`: find the verb, parse its arguments, call it, and turn errors into exit codes.

Only the chosen verb's file is imported, and a verb imports what is heavy when it runs: `--help` stays fast.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import thinkery
from thinkery.errors import DiskFull, InputError, ThinkeryError

VERBS = {
    "init": "write a recipe: on your own data and reward, or a copy of the embedded one",
    "run": "run a recipe, or continue it where it stopped",
    "plan": "memory, time, tokens and disk of a recipe on this machine, before it starts",
    "show": "the graph of a run, what is done, and what each artifact came from",
    "eval": "measure a model on tasks",
    "compare": "two models or stages side by side: differences, and which questions changed",
    "score": "judge what was produced elsewhere: JSON lines in, verdicts out",
    "generate": "complete one prompt",
    "chat": "talk to a model",
    "view": "runs in the browser: curves, every sample, comparisons, data",
    "serve": "models over HTTP, as the DeepSeek API",
    "keys": "who may use the server: create, list, revoke, credit",
    "usage": "what the server's requests used and cost",
    "report": "the stage table, plots and claims of a run",
    "export": "a model for other programs: a Hugging Face folder, or a .gguf file",
    "data": "make, inspect or verify data",
    "config": "show, validate, explain or compare settings",
    "doctor": "what this machine has and lacks, with the command that brings it",
}

EPILOG = "Start with `thinkery run tiny`; `thinkery VERB --help` explains a verb."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code and never raises."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv  # wherever it stands, also behind a verb
    try:
        args = parse([word for word in argv if word != "--debug"])
        code = args.verb(args) or 0
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help, --version, usage
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 141
    except Exception as problem:
        return fail(problem, debug=debug)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of the chosen verb; `args.verb` is the function that does it."""
    parser = argparse.ArgumentParser("thinkery", description=thinkery.__doc__, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"thinkery {thinkery.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; may stand anywhere")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:
            module = importlib.import_module(f"thinkery.cli.{name}")
            module.arguments(verb)
            verb.set_defaults(verb=module.main)
    args, rest = parser.parse_known_args(argv)
    misplaced = [word for word in rest if word.startswith("-") or "=" not in word or "settings" not in args]
    if misplaced:
        parser.error(f"unrecognized arguments: {' '.join(misplaced)}")
    if rest:  # argparse gives up on key=value words that follow an option
        args.settings += rest
    return args


def fail(problem: Exception, *, debug: bool) -> int:
    """Say what went wrong on stderr, in one line unless `debug`; returns the exit code."""
    if debug:
        traceback.print_exception(problem)
    expected = as_expected(problem)
    if expected is not None:
        with suppress(OSError):  # nobody reads any more, and the exit code says it too
            print(f"error: {expected}", file=sys.stderr)
        return expected.exit_code
    kept = Path(tempfile.mkstemp(prefix="thinkery-", suffix=".traceback")[1])
    kept.write_text("".join(traceback.format_exception(problem)))
    what = f"{type(problem).__name__}: {problem}".splitlines()[0]
    print(f"error: unexpected {what}\n  this is a bug; traceback in {kept}, or use --debug", file=sys.stderr)
    return 1


def as_expected(problem: Exception) -> ThinkeryError | None:
    """Our own errors as they are, and the file system's as ours; None for anything else."""
    if isinstance(problem, ThinkeryError):
        return problem
    if not isinstance(problem, OSError) or problem.filename is None:
        return None
    kind = DiskFull if problem.errno == errno.ENOSPC else InputError
    return kind((problem.strerror or "cannot be used").lower(), where=str(problem.filename))
