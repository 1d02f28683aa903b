"""Members of a pool as processes of this machine; those whose weights change read them from a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from torch import Tensor

from thinkery.engine import EngineConfig, MembersConfig
from thinkery.engine.delivery import InFolder, in_folder
from thinkery.engine.member import Link, Order, Said, run_member
from thinkery.model.hf import formats_of, save_model
from thinkery.model.lora import plain
from thinkery.model.tokenizer import Tokenizer
from thinkery.process import Worker, end_process, start_process


@contextmanager
def open_processes(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[LearningProcesses]:
    """The place for `cfg.processes` processes on the network's device, with a folder that lasts as the block does."""
    folder, own = Path(tempfile.mkdtemp(prefix="thinkery-pool-")), next(network.parameters())
    try:
        save_model(folder / "model", plain(network), tokenizer)
        alone = cfg.model_copy(update={"processes": 0})
        yield LearningProcesses(folder, cfg, run_member, folder / "model", alone, formats_of(network), str(own.device))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Processes:
    """Members beside this process, each of which does `work(connection, *args)`."""

    def __init__(self, cfg: MembersConfig, work: Callable[..., None], *args: object) -> None:
        self.count, self.threads = cfg.processes, cfg.threads
        self.work, self.args = work, args

    def start(self) -> ProcessLink:
        """A new process, which loads the model."""
        return ProcessLink(*start_process(self.work, *self.args, threads=self.threads))

    def heard(self, links: Sequence[Link], timeout: float) -> list[Link]:
        """Those that have said something or died."""
        return heard(links, timeout)


class LearningProcesses(Processes):
    """Members whose weights change, and come in a folder."""

    def __init__(self, folder: Path, cfg: MembersConfig, work: Callable[..., None], *args: object) -> None:
        super().__init__(cfg, work, *args)
        self.folder = folder

    def store(self, weights: Mapping[str, Tensor]) -> InFolder:
        """A copy of the weights, in a new folder."""
        return in_folder(weights, self.folder)


def heard(links: Sequence[Link], timeout: float) -> list[Link]:
    """Those of some processes that have said something or died, none after `timeout` seconds."""
    by_connection = {link.connection: link for link in links if isinstance(link, ProcessLink)}
    return [by_connection[c] for c in wait(list(by_connection), timeout)]  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True, eq=False)
class ProcessLink:
    """A process and the connection to it."""

    connection: Connection
    worker: Worker

    def send(self, order: Order) -> None:
        """Tell the process; one that has died says so by its connection."""
        try:
            self.connection.send(order)
        except OSError:
            return

    def receive(self) -> list[Said]:
        """The next thing that it says."""
        try:
            return [self.connection.recv()]
        except OSError as error:
            raise EOFError from error

    def end(self) -> None:
        """Wait for the process, and kill it where that takes too long."""
        end_process(self.worker)
        self.connection.close()

    def kill(self) -> None:
        """Kill the process."""
        self.worker.kill()
