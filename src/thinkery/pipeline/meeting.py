"""How the ranks of a run find each other before they can speak: through rank 0's key-value store, or torchrun's.

    pulse = meet(os.environ, Watchdog())      # RankLost names who has not come in time, and where it was expected

Each writes its pulse there, which says that it has come; rank 0 looks who has, and tells the others.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

from thinkery.errors import EnvironmentLacks, RankLost
from thinkery.pipeline.pulse import Pulse, Watchdog, pulse_key

MET = "thinkery/met"
"""Where rank 0 writes who has not come, once it waits no longer."""
LOOK_S = 0.2
"""How often one that waits looks."""
HINT = "look at the machines and logs of the others, and at MASTER_ADDR and WORLD_SIZE; the same command starts again"


def meet(environ: Mapping[str, str], cfg: Watchdog) -> Pulse:
    """This rank's pulse, once all ranks are there; otherwise RankLost, on every rank that is, after `start_s`.

    EnvironmentLacks where rank 0 cannot serve the others. init_process_group will find the same store.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    rank, count, address = int(environ["RANK"]), int(environ["WORLD_SIZE"]), f"{host}:{port}"
    serves = rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        wait_for_listener(host, port, cfg.start_s)
    try:
        timeout = timedelta(seconds=cfg.start_s)
        store = TCPStore(host, port, is_master=serves, timeout=timeout, wait_for_workers=False, multi_tenant=True)
        attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps its store for all of them
        pulse = Pulse(PrefixStore(f"attempt-{attempt}", store), rank, count, cfg)
        missing = missing_at_start(pulse)
    except dist.DistError as error:
        found = str(error).splitlines()[0]
        if serves:
            hint = "MASTER_ADDR must be this machine, and MASTER_PORT a port that is free"
            raise EnvironmentLacks("rank 0 cannot serve the others", where=address, found=found, hint=hint) from error
        what = "rank 0 has ended before all ranks had come"
        raise RankLost(what, where=address, found=found, hint=HINT) from error
    if missing:
        names = f"rank {', '.join(map(str, missing))}"
        what = f"{names} has not come in {cfg.start_s:g} s (watchdog.start_s)"
        raise RankLost(what, where=address, found=f"{count - len(missing)} of {count} ranks", hint=HINT)
    return pulse


def wait_for_listener(host: str, port: int, start_s: float) -> None:
    """Return when somebody listens there, else RankLost; torch itself would fill the log while it tries."""
    end = time.monotonic() + start_s
    while True:
        try:
            return socket.create_connection((host, port), timeout=max(LOOK_S, end - time.monotonic())).close()
        except OSError as error:
            if time.monotonic() > end:
                what = f"rank 0 has not come in {start_s:g} s (watchdog.start_s)"
                raise RankLost(what, where=f"{host}:{port}", found=str(error), hint=HINT) from error
        time.sleep(LOOK_S)


def missing_at_start(pulse: Pulse) -> list[int]:
    """The ranks that have not come when rank 0 stops waiting, as it tells all; without its word, those missed here."""
    store, end = pulse.store, time.monotonic() + pulse.cfg.start_s
    while not store.check([MET]):
        late = time.monotonic() > end
        if pulse.rank == 0 or late:
            missing = [rank for rank in range(pulse.count) if not store.check([pulse_key(rank)])]
            if pulse.rank == 0 and (late or not missing):
                store.set(MET, json.dumps(missing))
                time.sleep(3 * LOOK_S if missing else 0.0)  # the others read it while this process serves them
                return missing
            if late:
                return missing
        time.sleep(LOOK_S)
    return json.loads(store.get(MET))


def gpu_of(environ: Mapping[str, str], gpus: int) -> int:
    """This rank's GPU of so many; EnvironmentLacks where its machine has fewer than ranks."""
    own = int(environ["LOCAL_RANK"])
    ranks = max(own + 1, int(environ.get("LOCAL_WORLD_SIZE", "1")))
    if ranks > gpus:
        hint = f"no more than {gpus} ranks of a machine (--procs {gpus}), all of which see all of its GPUs"
        raise EnvironmentLacks("every rank needs a GPU of its own", found=f"{ranks} ranks, {gpus} GPUs", hint=hint)
    return own
