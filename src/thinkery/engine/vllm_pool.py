"""Servers of vLLM as one engine: members of a pool (`pool.py`), each of them a process of ours that asks one server.

    VllmConfig(python="/opt/vllm/bin/python", devices=("1", "2"))        # two servers of this machine, started here
    VllmConfig(url=("http://10.0.0.2:8000", "http://10.0.0.3:8000"))     # two that run already

Requests, weights and losses are the pool's business. A server is lost when it cannot be reached, fails (status 500), or
has other weights than it was given, because somebody has started it anew or another run uses it. One of our own is then
started again; one that runs elsewhere is waited for, and gets the newest weights when it answers.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from thinkery.engine import EngineConfig
from thinkery.engine.delivery import InFolder, in_folder
from thinkery.engine.member import Alive, Broken, Link, Lost, Member, Scorer, Take, Taken, Text
from thinkery.engine.pool import PoolEngine, pooled
from thinkery.engine.processes import ProcessLink, heard
from thinkery.engine.vllm import VllmConfig, VllmSampler, weights_of, write_untied
from thinkery.engine.vllm_server import Gone, Remote, Server
from thinkery.errors import ThinkeryError
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.process import Channel, Desk, start_process, work

Open = Callable[[], Remote]
"""What reaches a server, or starts one."""
DeskOf = Callable[[Channel, Remote], Desk]
"""What a member does with its server, at its end of a connection."""

LOOK_S = 0.5
"""How often one that waits for a server looks for it."""


@contextmanager
def open_servers(network: Transformer, tokenizer: Tokenizer, cfg: VllmConfig, version: int) -> Iterator[PoolEngine]:
    """An engine of all servers that the settings name, for as long as the block lasts."""
    if cfg.folder:
        Path(cfg.folder).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="thinkery-vllm-", dir=cfg.folder or None))
    try:
        if cfg.python:
            write_untied(folder, network, tokenizer, cfg)
        members = Servers(cfg, partial(sampling, tokenizer=tokenizer, cfg=cfg), folder, folder)
        with pooled(network, tokenizer, limits_of(cfg), members, cfg.tolerance, version) as engine:
            yield engine
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def limits_of(cfg: VllmConfig, start_s: float = 0.0) -> EngineConfig:
    """What the pool keeps to; members may take `start_s` to start, or as long as vLLM may."""
    return EngineConfig(
        max_batch=cfg.max_batch, max_len=cfg.max_len, patience_s=cfg.patience_s, start_s=max(start_s, cfg.patience_s)
    )


class Servers:
    """Members that each ask a server, which they start on a `model` unless it runs already; weights come to all of them
    in one `folder`, which has the servers' logs too."""

    def __init__(self, cfg: VllmConfig, desk: DeskOf, model: Path, folder: Path) -> None:
        self.cfg, self.desk, self.model, self.folder = cfg, desk, model, folder
        self.free = list(cfg.url or cfg.devices or ("",))
        """Addresses, or GPUs, that no member has."""
        self.count, self.started = len(self.free), 0

    def start(self) -> ServerLink:
        """A new process for a server that has none."""
        self.started += 1
        place, log = self.free.pop(0), self.folder / f"server-{self.started}.log"
        started = partial(Server, self.model, self.cfg, log=log, devices=place)
        open_it = partial(Remote, place, self.cfg) if self.cfg.url else started
        return ServerLink(*start_process(run_member, open_it, self.desk, threads=1), place, self.free)

    def heard(self, links: Sequence[Link], timeout: float) -> list[Link]:
        """Those that have said something or died."""
        return heard(links, timeout)

    def store(self, weights: Mapping[str, Tensor]) -> InFolder:
        """A copy of the weights as vLLM reads them, in a new folder."""
        return in_folder(weights_of(weights, self.cfg), self.folder)


@dataclass(frozen=True, eq=False)
class ServerLink(ProcessLink):
    """A process that asks the server of a place, which is free again when it has ended."""

    place: str
    free: list[str]

    def end(self) -> None:
        """Wait for the process, and kill it where that takes too long."""
        super().end()
        self.free.append(self.place)


def run_member(connection: Channel, open_it: Open, desk: DeskOf) -> None:
    """What a member does: reach a server and work with it, until that is gone."""
    try:
        with closing(open_it()) as server:
            while not server.ready() and not connection.poll(LOOK_S):
                pass
            connection.send(Alive())
            work(connection, desk(connection, server))
    except Gone as error:
        connection.send(Lost(str(error)))
    except ThinkeryError as error:
        connection.send(Broken(error))


def sampling(connection: Channel, server: Remote, tokenizer: Tokenizer, cfg: VllmConfig) -> Member:
    """Sampling with a server."""
    sampler = VllmSampler(tokenizer, cfg, server)
    return Member(connection, sampler, partial(change, sampler))


def change(sampler: VllmSampler, job: Take) -> Taken:
    """Have a server take weights, and say what it makes of the canary with them."""
    return Taken(*sampler.deliver(job.weights, job.version, job.canary))


def scoring(connection: Channel, server: Remote) -> Scorer:
    """Scoring texts with a server."""
    return Scorer(connection, partial(logprobs_of, server))


def logprobs_of(server: Remote, texts: Sequence[Text], temperature: float) -> list[list[float]]:
    """The log-probabilities of the texts' tokens that are not given, all asked at once; at temperature 1 only, which
    who asks has to keep to."""
    found = server.threads.map(server.score, [[int(token) for token in text.tokens] for text in texts])
    return [logprobs[text.given - 1 :] for text, logprobs in zip(texts, found, strict=True)]
