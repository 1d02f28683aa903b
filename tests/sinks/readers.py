"""Reading back what each tracker has stored, as {execution: {metric: [(step, value), ...]}}, with its own libraries."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

Curves = dict[str, dict[str, list[tuple[int, float]]]]


def tensorboard(folder: Path, project: str) -> Curves:
    """From event files, with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Curves = {}
    for run in (folder / "tensorboard").iterdir():
        events = EventAccumulator(str(run)).Reload()
        found[run.name] = {
            name: [(e.step, round(e.value, 4)) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
        }
    return found


def trackio(folder: Path, project: str) -> Curves:
    """From Trackio's database, with its own storage class."""
    from trackio.sqlite_storage import SQLiteStorage

    found: Curves = {}
    for run in SQLiteStorage.get_runs(project):
        for row in SQLiteStorage.get_logs(project, run):
            for name, value in row.items():
                if name not in ("step", "timestamp"):
                    found.setdefault(run, {}).setdefault(name, []).append((row["step"], value))
    return found


def mlflow(folder: Path, project: str) -> Curves:
    """From the database, through MLflow's client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(project)
    assert experiment
    return {
        run.info.run_name: {
            name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        for run in client.search_runs([experiment.experiment_id])
    }


def wandb(folder: Path, project: str) -> Curves:
    """From the offline files of all attempts, in order, with W&B's own protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: Curves = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        curves = found.setdefault(path.stem.removeprefix("run-"), {})
        for data in leveldb_records(path.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                for name, value in row.items():
                    if name != "step" and not name.startswith("_"):
                        curves.setdefault(name, []).append((row["step"], value))
    return found


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB; checksum, length and type before each fragment."""
    at, whole = 7, b""  # W&B's own header comes first
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            return
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""
