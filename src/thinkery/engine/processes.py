"""Members of a pool as processes of this machine, which read weights from a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from torch import Tensor

from thinkery.engine import EngineConfig
from thinkery.engine.delivery import InFolder, in_folder
from thinkery.engine.member import Link, Order, Said, run_member
from thinkery.model.hf import save_model
from thinkery.model.lora import plain
from thinkery.model.tokenizer import Tokenizer
from thinkery.process import Worker, end_process, start_process


@contextmanager
def open_processes(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[Processes]:
    """The place for `cfg.processes` processes, with a folder that lasts as long as the block."""
    folder = Path(tempfile.mkdtemp(prefix="thinkery-pool-"))
    try:
        save_model(folder / "model", plain(network), tokenizer)
        yield Processes(network, cfg, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Processes:
    """Members beside this process, on the device of its network."""

    def __init__(self, network: Any, cfg: EngineConfig, folder: Path) -> None:
        self.own, self.folder, self.count = next(network.parameters()), folder, cfg.processes
        self.cfg = cfg.model_copy(update={"processes": 0})

    def start(self) -> ProcessLink:
        """A new process, which loads the model."""
        args = (self.folder / "model", self.cfg, self.own.dtype, str(self.own.device))
        return ProcessLink(*start_process(run_member, *args, threads=self.cfg.threads))

    def heard(self, links: Sequence[Link], timeout: float) -> list[Link]:
        """Those that have said something or died."""
        return heard(links, timeout)

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
