"""`thinkery data`: make a file of tasks from a source, look into data, verify what a run made."""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinkery.cli import terminal
from thinkery.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-verb each."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, (action, summary) in ACTIONS.items():
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.set_defaults(action=action)
        sub.add_argument("--json", action="store_true", help="machine output on stdout")
        if name == "make":
            sub.add_argument("source", metavar="SOURCE", help="world, gsm8k, math, jsonl, …")
            sub.add_argument(
                "settings", nargs="*", metavar="KEY=VALUE", help="its settings, such as limit=100 path=my.jsonl"
            )
            sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .jsonl file to write")
            sub.add_argument("--seed", type=int, default=0)
            sub.add_argument(
                "--exam", action="store_true", help="allow evaluation sets; such tasks must not be trained on"
            )
        else:
            folder = "a dataset's folder" if name == "inspect" else "an artifact's folder or a run"
            sub.add_argument("path", type=Path, help=f"a .jsonl, .json or .parquet file, or {folder}")


def main(args: argparse.Namespace) -> None:
    """Do the chosen action."""
    args.action(args)


def make(args: argparse.Namespace) -> None:
    """Write the tasks of a source as JSON lines that the source `jsonl` reads back."""
    from thinkery.config import load
    from thinkery.pipeline.artifact import task_to_row
    from thinkery.pipeline.files import row_bytes, write_file
    from thinkery.tasks.sources import Source, load_tasks

    if args.out.exists():
        raise InputError("there is something already", where=str(args.out), hint="name a new file, or remove it")
    if not args.out.parent.is_dir():
        raise InputError("no such file or directory", where=str(args.out), hint=f"mkdir -p {args.out.parent}")
    source = load(Source, overrides=[f"source={args.source}", *args.settings]).config
    tasks = load_tasks([source], seed=args.seed, purpose="exam" if args.exam else "train")
    write_file(args.out, b"".join(row_bytes(task_to_row(task)) for task in tasks))
    if args.json:
        terminal.emit({"path": args.out, "tasks": len(tasks), "kinds": Counter(task.kind for task in tasks)})
    else:
        terminal.remark(f"wrote {len(tasks)} tasks to {args.out}; `thinkery data inspect {args.out}` looks into it")


def inspect(args: argparse.Namespace) -> None:
    """Say what rows there are, how they would be read as tasks, and what of them cannot be graded."""
    found = describe_dataset(args.path) if args.path.is_dir() else describe_file(args.path)
    if args.json:
        terminal.emit(found)
        return
    sample = found.pop("sample")
    print(terminal.table((name, json.dumps(v, ensure_ascii=False)) for name, v in found.items()))
    for row in sample:
        print(terminal.styled(json.dumps(row, ensure_ascii=False)[:400], terminal.DIM))


def describe_file(path: Path) -> dict[str, Any]:
    """A file of one's own: rows, inferred mapping, kinds, and what would be dropped as ungradable."""
    from thinkery.rewards.lint import check_gold
    from thinkery.tasks.fields import infer_fields
    from thinkery.tasks.files import read_rows
    from thinkery.tasks.sources import Source, load_tasks

    rows = [row for _, row in itertools.islice(read_rows(path), 200)]
    tasks = load_tasks([Source(source="jsonl", path=str(path), split="test")], purpose="exam")
    kept, dropped = check_gold(tasks)
    return {
        "rows": len(tasks),
        "fields": infer_fields(rows).model_dump(exclude_defaults=True),
        "kinds": dict(Counter(task.kind for task in tasks)),
        "gradable": len(kept),
        "dropped": dict(Counter(reason for _, reason in dropped)),
        "sample": rows[:3],
    }


def describe_dataset(path: Path) -> dict[str, Any]:
    """A dataset that a step made: rows, the funnel it came through, and where it came from."""
    from thinkery.pipeline.artifact import MANIFEST, Dataset, load_artifact

    if not (path / MANIFEST).is_file():
        hint = "the folder of a step that made one, such as runs/demo/steps/corpus-1a2b3c4d"
        raise InputError("not a dataset", where=str(path), found=f"no {MANIFEST}", hint=hint)
    artifact = load_artifact(path)
    if not isinstance(artifact, Dataset):
        raise InputError(
            "not a dataset", where=str(path), found=f"a {artifact.kind}", hint="`thinkery show` describes it"
        )
    return {
        "step": artifact.name,
        "rows": len(artifact),
        "funnel": artifact.funnel,
        "meta": artifact.meta,
        "sample": list(itertools.islice(artifact.rows(), 3)),
    }


def verify(args: argparse.Namespace) -> None:
    """Read every byte again: of a run's artifacts compare the hashes, of a file parse every line."""
    checked = verify_artifacts(args.path) if args.path.is_dir() else [f"{args.path}: {count_rows(args.path)} rows"]
    if args.json:
        terminal.emit({"verified": checked})
    else:
        print("\n".join(f"ok  {line}" for line in checked))


def verify_artifacts(path: Path) -> Sequence[str]:
    """Verify the artifact in a folder, or every finished one of a run; HashMismatch names the first bad file."""
    from thinkery.pipeline.artifact import MANIFEST, load_artifact

    folders = [path] if (path / MANIFEST).is_file() else [p.parent for p in sorted(path.glob(f"steps/*/{MANIFEST}"))]
    if not folders:
        raise InputError("neither an artifact nor a run with finished steps", where=str(path))
    for folder in folders:
        load_artifact(folder).verify()
    return [str(folder) for folder in folders]


def count_rows(path: Path) -> int:
    """How many rows a file has; InputError with file and line for one that is not JSON."""
    from thinkery.tasks.files import read_rows

    return sum(1 for _ in read_rows(path))


ACTIONS = {
    "make": (make, "write the tasks of a source to a .jsonl file"),
    "inspect": (inspect, "what is in a file or dataset, and how it would be read"),
    "verify": (verify, "check that every byte is as it was written"),
}
