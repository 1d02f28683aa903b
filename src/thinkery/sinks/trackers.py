"""Experiment trackers behind one interface; each library is an extra and is imported when its sink is opened.

Another tracker is another class with these two methods and one more word in `Sinks.to`. Limit: Trackio and W&B pass
values on through a thread or a process of their own, so that `kill -9` may cost them what came in the last second.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from thinkery.config import Config

FLUSH_S = 0.5
"""Seconds between two writes of W&B's file; its own 15 would lose as much when the run is killed."""

PARAMETER = 6000
"""The longest text that MLflow takes as a parameter."""

Name = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class Sinks(Config):
    """Settings of the trackers that are sent a run's metrics."""

    to: tuple[Name, ...] = ()
    """Which of `tensorboard`, `trackio`, `wandb` and `mlflow`; each is an extra: `pip install 'thinkery[wandb]'`."""
    project: str = "thinkery"
    """What the trackers group runs under."""
    folder: Path | None = None
    """Where TensorBoard, W&B and MLflow write; None is `sinks` in the run directory. Trackio keeps its own place."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """Whether W&B writes files for a later `wandb sync`, or sends at once."""
    mlflow_server: str = ""
    """Address of an MLflow server; empty writes `mlflow.db` into `folder`."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a step, which is one run of a tracker; the same over all attempts that continue it."""

    id: str
    step: str
    run: str
    """The id of the whole run."""
    config: Mapping[str, Any]
    folder: Path
    """Where sinks that write files put them."""


class Sink(Protocol):
    """A tracker, opened for one execution of a step; one that has seen the execution's id before continues it."""

    def write(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Add values to the curves at a step number; `at` is seconds since 1970."""
        ...

    def close(self) -> None:
        """The execution ended, or this attempt at it."""
        ...


class TensorBoard:
    """Event files: `tensorboard --logdir runs/mine/sinks/tensorboard`."""

    def __init__(self, execution: Execution, cfg: Sinks) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(execution.folder / "tensorboard" / execution.id)

    def write(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Add values to the curves."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=at)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


class Trackio:
    """Trackio's database in its own place (`TRACKIO_DIR`): `trackio show --project thinkery`."""

    def __init__(self, execution: Execution, cfg: Sinks) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it greets on stdout, which is for results
            self._run = trackio.init(
                cfg.project,
                name=execution.id,
                group=execution.run,
                config={"step": execution.step, **execution.config},
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def write(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Add values to the curves."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until the database has everything."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


class WandB:
    """W&B, offline unless told otherwise: `wandb sync --append runs/mine/sinks/wandb/offline-*`."""

    def __init__(self, execution: Execution, cfg: Sinks) -> None:
        import wandb

        execution.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=cfg.project,
            id=execution.id,
            name=execution.id,
            group=execution.run,
            job_type=execution.step,
            config=dict(execution.config),
            dir=execution.folder,
            mode=cfg.wandb_mode,
            resume="allow" if cfg.wandb_mode == "online" else None,
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_transaction_log_flush_interval=FLUSH_S
            ),
        )
        self._run.define_metric("*", step_metric="step")  # its own counter starts anew with every attempt

    def write(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Add values to the curves."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Wait until everything is written or sent."""
        self._run.finish()


class MLflow:
    """MLflow, in a database of its own or on a server: `mlflow ui --backend-store-uri sqlite:///…/sinks/mlflow.db`."""

    def __init__(self, execution: Execution, cfg: Sinks) -> None:
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        execution.folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(cfg.mlflow_server or f"sqlite:///{execution.folder / 'mlflow.db'}")
        self._id = self._found(execution, cfg.project) or self._created(execution, cfg.project)

    def write(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Add values to the curves."""
        from mlflow.entities import Metric

        metrics = [Metric(name.replace("@", "_at_"), value, round(at * 1000), step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics)  # "@" is no letter of MLflow's names

    def close(self) -> None:
        """Mark the run as ended; a later attempt may still add to it."""
        self._client.set_terminated(self._id)

    def _found(self, execution: Execution, project: str) -> str | None:
        """The run that an earlier attempt began."""
        experiment = self._client.get_experiment_by_name(project)
        if experiment is None:
            return None
        runs = self._client.search_runs([experiment.experiment_id], f"attributes.run_name = '{execution.id}'")
        return runs[0].info.run_id if runs else None

    def _created(self, execution: Execution, project: str) -> str:
        experiment = self._client.get_experiment_by_name(project)
        place = experiment.experiment_id if experiment else self._client.create_experiment(project)
        tags = {"thinkery.run": execution.run, "thinkery.step": execution.step}
        run = self._client.create_run(place, run_name=execution.id, tags=tags).info.run_id
        for name, value in execution.config.items():
            self._client.log_param(run, name, str(value)[:PARAMETER])
        return run


SINKS: Mapping[Name, Callable[[Execution, Sinks], Sink]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
    "mlflow": MLflow,
}
