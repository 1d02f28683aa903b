"""The processes that work on one run: everything that they say to each other goes through `Ranks`.

    with joined(os.environ) as ranks:                     # one alone, or those that torchrun has started
        mine = ranks.share(tasks)                         # every task is some rank's
        groups = [group for part in ranks.gather(answers(mine)) for group in part]

Every rank calls the same methods in the same order, from one thread; one that waits for a rank that has gone, or that
gives no sign of life (`pulse.py`), raises RankLost. A second thread has ranks of its own (`beside`), which it leaves
when its work is over. Objects and flags travel over gloo, tensors over gloo or, on GPUs, NCCL. Torch is imported when
there are several ranks and not before.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from thinkery.errors import RankLost
from thinkery.pipeline.meeting import gpu_of, meet
from thinkery.pipeline.pulse import Pulse, Watchdog

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
LINGER_S = 2.0
"""How long a rank that has lost another stays, so that one that failed by itself ends first."""
PATIENCE = timedelta(days=365)
"""How long torch lets a rank wait for the others: for ever, since `Pulse` knows whether they live."""
LOOK = timedelta(seconds=0.5)
"""How often one that waits looks whether the others live."""
BROKEN = ("peer", "gloo", "Gloo", "NCCL", "Broken pipe")
"""Words in what torch says of a connection that has ended."""


class Ranks:
    """One process alone: what is shared, gathered, told or summed stays what it is."""

    rank, count = 0, 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part: every `count`-th item."""
        return items[self.rank :: self.count]

    def gather(self, item: T) -> list[T]:
        """Every rank's item, by rank."""
        return [item]

    def tell(self, item: T) -> T:
        """Rank 0's item."""
        return item

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the ranks."""

    def sums(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums by name; a rank need not have every name."""
        parts = self.gather(numbers)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part[name] for part in parts if name in part) for name in names}

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, a connection that breaks is RankLost; collectives that others call are meant, such as FSDP's."""
        yield

    def beside(self) -> Ranks:
        """The same ranks for another thread, whose calls do not mix with this one's; all ask for them at once."""
        return self

    def leave(self) -> None:
        """The last call, where every rank makes it: who still waits for this one to gather is told that it does not."""


ALONE = Ranks()
"""The one rank of a run that has no others."""


class Processes(Ranks):
    """Several processes, joined by torch.distributed's default group, or another; `joined` makes it."""

    def __init__(self, pulse: Pulse, group: Any = None) -> None:
        import torch.distributed as dist

        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.pulse, self.group = pulse, group

    def gather(self, item: T) -> list[T]:
        """Every rank's item, by rank."""
        import torch
        import torch.distributed as dist

        own = _bytes_of(item)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
        self.meet(dist.all_gather(sizes, torch.tensor([len(own)]), group=self.group, async_op=True))
        room = int(max(sizes))
        parts = [torch.empty(room, dtype=torch.uint8) for _ in range(self.count)]
        padded = torch.zeros(room, dtype=torch.uint8)
        padded[: len(own)] = own
        self.meet(dist.all_gather(parts, padded, group=self.group, async_op=True))
        return [_item_of(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def tell(self, item: T) -> T:
        """Rank 0's item."""
        import torch
        import torch.distributed as dist

        own = _bytes_of(item)
        size = torch.tensor([len(own)])
        self.meet(dist.broadcast(size, 0, group=self.group, async_op=True))
        told = own if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        self.meet(dist.broadcast(told, 0, group=self.group, async_op=True))
        return item if self.rank == 0 else _item_of(told)

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        import torch
        import torch.distributed as dist

        found = torch.tensor(int(flag))
        self.meet(dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group, async_op=True))
        return bool(found)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the ranks."""
        import torch.distributed as dist

        for tensor, work in [(tensor, dist.all_reduce(tensor, group=self.group, async_op=True)) for tensor in tensors]:
            if tensor.is_cuda:  # NCCL: this waits for no other rank, and a second wait would end the connection
                with broken(self.pulse):
                    work.wait()  # pyright: ignore[reportOptionalMemberAccess]
            else:
                self.meet(work)

    def meet(self, work: Any) -> None:
        """Wait for what the ranks do together; RankLost where one has gone or gives no sign of life."""
        with broken(self.pulse):
            while True:
                try:
                    work.wait(LOOK)
                    break
                except RuntimeError:
                    if work.is_completed():  # and it has failed
                        raise
                if lost := self.pulse.missing():
                    raise lost
        if self.group is None:
            self.pulse.meet()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, a connection that breaks is RankLost; collectives that others call are meant, such as FSDP's."""
        with together(self.pulse):
            yield

    def beside(self) -> Ranks:
        """The same ranks for another thread, whose calls do not mix with this one's; all ask for them at once."""
        import torch.distributed as dist

        return Beside(self.pulse, dist.new_group(backend="gloo", timeout=PATIENCE))


class Beside(Processes):
    """Several processes as a second thread of each has them: it can only gather, and leave.

    All gather in the same order. One that leaves gathers once more, so that no other waits for it in vain; all must.
    """

    left = False

    def gather(self, item: T) -> list[T]:
        """Every rank's item, by rank; RankLost once any has left."""
        found = [] if self.left else super().gather((False, item))
        self.left = self.left or any(gone for gone, _ in found)
        if self.left:
            raise RankLost(
                "another process of this run has stopped sampling",
                where=f"rank {self.rank} of {self.count}",
                hint="its log says why; the same command continues from the last checkpoint",
            )
        return [each for _, each in found]

    def leave(self) -> None:
        """Tell the others, unless one has left before."""
        if not self.left:
            self.left = True
            super().gather((True, None))


@contextmanager
def together(pulse: Pulse) -> Iterator[None]:
    """Inside, all ranks work at the same, and a connection that breaks is RankLost."""
    pulse.shared += 1
    try:
        with broken(pulse):
            yield
    finally:
        pulse.shared -= 1


@contextmanager
def broken(pulse: Pulse) -> Iterator[None]:
    """Inside, a connection that breaks is RankLost."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in BROKEN):
            raise
        raise pulse.missing() or RankLost(
            "another process of this run has ended",
            where=f"rank {pulse.rank} of {pulse.count}",
            found=str(error).splitlines()[0],
            hint="its log says why; the same command continues from the last checkpoint",
        ) from error


def _bytes_of(item: object) -> Tensor:
    """An item as bytes; it goes to processes of the same run alone."""
    import torch

    return torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8)


def _item_of(told: Tensor) -> Any:
    """What another rank has made bytes of."""
    return pickle.loads(told.numpy().tobytes())


@contextmanager
def joined(environ: Mapping[str, str], watchdog: Watchdog | None = None) -> Iterator[Ranks]:
    """The ranks that torchrun's variables (WORLD_SIZE and the rest) speak of; one alone where there are none.

    RankLost where some do not come in `start_s`, EnvironmentLacks where a machine has fewer GPUs than ranks.
    """
    if int(environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(gpu_of(environ, torch.cuda.device_count()))
    pulse = meet(environ, watchdog or Watchdog())
    pulse.start()
    try:
        with together(pulse):
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
            ranks = Processes(pulse)
            ranks.gather(None)
        yield ranks
    except RankLost:
        if int(environ["RANK"]):
            time.sleep(LINGER_S)  # rank 0 may have failed by itself, and its exit code is the run's
        raise
    finally:
        pulse.stop()
        if pulse.missing():
            atexit.register(_leave)
        elif dist.is_initialized():
            dist.destroy_process_group()


def _leave() -> None:
    """End without closing the connections, in which torch would wait for the rank that is lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(RankLost.exit_code)
