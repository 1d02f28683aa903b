"""Log-probabilities of given texts, from members of a pool that hold a model which does not change: a teacher's.

    with open_scorers(folder, MembersConfig(processes=2), work) as scorers:
        [[logprobs]] = scorers.logprobs([[Text((5, 6, 7), given=1)]], 1.0)      # of tokens 6 and 7

Members are processes of this machine or actors of a Ray cluster, and each may have a server of vLLM do it; only they
load the model. What is asked together goes to one of them, the one with the least to do, and what one that is lost had
not said is asked of another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from thinkery.engine import MembersConfig
from thinkery.engine.member import Members, Said, Score, Scored, Text
from thinkery.engine.pool import Place, Pool
from thinkery.engine.processes import Processes
from thinkery.engine.vllm import VllmConfig
from thinkery.process import Channel

AT_ONCE = 2
"""Batches that a member is given at a time: one to work on and one that waits."""


@contextmanager
def open_scorers(
    model: Path,
    cfg: MembersConfig,
    work: Callable[[Channel, Path], None],
    vllm: VllmConfig | None = None,
    *,
    on_gpu: bool = False,
) -> Iterator[Scorers]:
    """Members where the settings say, for as long as the block lasts.

    `work` is what each does with the model's folder, on a GPU where that is said, unless a server of vLLM does it.
    """
    with ExitStack() as stack:
        members, limits = open_members(stack, model, cfg, work, vllm, on_gpu), cfg
        if vllm:
            from thinkery.engine.vllm_pool import limits_of

            limits = limits_of(vllm, cfg.start_s)
        scorers = Scorers(members, limits, most=AT_ONCE)
        stack.callback(scorers.release)
        yield scorers


def open_members(
    stack: ExitStack,
    model: Path,
    cfg: MembersConfig,
    work: Callable[[Channel, Path], None],
    vllm: VllmConfig | None,
    on_gpu: bool,
) -> Members:
    """Where the members run; the stack closes what is opened for them."""
    if cfg.ray:
        from thinkery.engine.ray import Actors, connected_as  # takes a second, and is an extra

        stack.enter_context(connected_as(cfg))
        write = partial(link_files, model)
        if vllm is None:
            return Actors(cfg, int(on_gpu), write, work)
        from thinkery.engine import vllm_pool, vllm_ray

        return vllm_ray.Servers(vllm, cfg, write, vllm_pool.scoring, on_gpu=on_gpu)
    if vllm is None:
        return Processes(cfg, work, model)
    from thinkery.engine import vllm_pool

    logs = stack.enter_context(tempfile.TemporaryDirectory(prefix="thinkery-vllm-"))
    return vllm_pool.Servers(vllm, vllm_pool.scoring, model, Path(logs))


def link_files(model: Path, folder: Path) -> None:
    """Give a folder the files of a model."""
    for path in model.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path.resolve())


@dataclass(slots=True)
class Batch:
    """Texts that one member scores together."""

    id: str
    texts: tuple[Text, ...]
    temperature: float
    out: list[int] = field(default_factory=lambda: [0])

    def order(self) -> Score:
        """What a member is told."""
        return Score(self.id, self.texts, self.temperature)


class Scorers(Pool[Batch]):
    """Members that score texts."""

    setting = "teacher_engine"

    def __init__(self, members: Members, cfg: MembersConfig, most: int) -> None:
        self.asked = 0
        self.found: dict[str, Sequence[Sequence[float]]] = {}
        super().__init__(members, cfg, most)

    def logprobs(self, batches: Sequence[Sequence[Text]], temperature: float) -> list[Sequence[Sequence[float]]]:
        """Of every text of each batch the log-probabilities of its tokens that are not given, under
        softmax(logits / temperature).

        Raises what a member met and could not do, RunFailed when too many were lost, Stalled when none starts.
        """
        names = [f"s{self.asked + number}" for number in range(len(batches))]
        self.asked += len(batches)
        self.queue.extend(Batch(id, tuple(texts), temperature) for id, texts in zip(names, batches, strict=True))
        while self.waiting():
            self.dispatch()
            self.listen()
        return [self.found.pop(name) for name in names]

    def begin(self, place: Place[Batch]) -> None:
        """A member that has started can be asked."""
        place.ready = True

    def told(self, place: Place[Batch], said: Said) -> None:
        """A batch is scored."""
        if isinstance(said, Scored):
            self.in_a_row = 0
            self.found[said.id] = said.logprobs
            del place.asked[said.id]
