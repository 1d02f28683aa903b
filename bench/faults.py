"""Random faults under the demo recipe's RL, each of which must end in recovery or in a stop that can be resumed.

    python -m bench.faults --dir runs/proof/faults      →  bench/results/faults.json; as root, since it makes nodes

Every trial runs eight updates of `tiny`'s R1-Zero, sized down, on one machine or on two that `bench/nodes.py` makes of
network namespaces, and does one thing to it at a random update. What then stops is continued by the same command. At
the end every update and every sample must be in the record once, and the weights must be those of an undisturbed run,
bit for bit. Trials that are done are kept in `--dir`; with `--for SECONDS` none is begun later, and the same command
goes on. Several of these commands may work on one `--dir` at a time.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from bench.nodes import Node, open_cluster, start_cluster
from bench.recipe import machine, write
from thinkery.errors import RankLost, ThinkeryError

UPDATES, QUESTIONS, SAMPLES = 8, 2, 4
RECIPE = f"""
extends = "tiny"

[watchdog]
silence_s = 6

[problems]
sources = [{{ source = "world", kind = "chain", limit = 24 }}]

[zero]
watched = 2
engine = {{ deterministic = true, max_batch = 8, max_len = 96, patience_s = 12, start_s = 60 }}

[zero.grpo]
updates = {UPDATES}
questions_per_update = {QUESTIONS}
group_size = {SAMPLES}
max_tokens = [[0, 32]]
preflight = 0
skip_no_spread = false
checkpoint_every = 2
eval_every = 20
"""
LIMIT_S = 300.0
"""In how many seconds a run must have stopped or gone on after a fault; a minute of it may be the fault's own."""
PORT = 29500
"""Where ranks on two nodes meet."""
DISK = "64m"
"""The disk that is filled."""


class Failed(Exception):
    """A trial that did not end as it should."""


@dataclass
class Trial:
    """One run: where it works, the nodes that there are, and the processes of its present attempt."""

    folder: Path
    nodes: list[Node]
    rng: random.Random
    round: int = 0
    """How many trials of its kind were before it."""
    commands: list[tuple[Node | None, list[str], dict[str, str]]] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    gone: float = 0.0
    """When the fault was over, or the command was given again."""

    def start(self) -> None:
        """Begin an attempt, or the next one: the same commands."""
        with (self.folder / "said.txt").open("ab") as said:
            self.processes = [
                node.popen(command, cwd=self.folder, env=env, stdout=said, stderr=said)
                if node
                else subprocess.Popen(command, cwd=self.folder, env={**os.environ, **env}, stdout=said, stderr=said)
                for node, command, env in self.commands
            ]

    def reach(self, update: int) -> bool:
        """Wait for an update; False when the attempt ends before it."""
        until = time.monotonic() + LIMIT_S
        while update > max(updates(self.folder), default=0):
            if self.ended:
                return False
            if time.monotonic() > until:
                raise Failed(f"update {update} did not come in {LIMIT_S:g} s")
            self.tend()
        return True

    @property
    def ended(self) -> bool:
        """Whether every process of the attempt has ended."""
        return all(process.poll() is not None for process in self.processes)

    def end(self) -> list[int]:
        """Wait for the end of the attempt; the exit codes."""
        until = time.monotonic() + LIMIT_S
        while not self.ended:
            if time.monotonic() > until:
                raise Failed(f"the run did not end in {LIMIT_S:g} s")
            self.tend()
        self.codes = [process.returncode for process in self.processes]
        return self.codes

    def tend(self) -> None:
        """Wait a moment; where a node's Ray has ended by itself, start it again, as Kubernetes does."""
        for node in self.nodes[1:]:
            if node.ray is not None and node.ray.poll() is not None:
                node.kill(spare=[pid for process in self.processes for pid in family(process.pid)])
                node.start_ray(self.nodes[0], processors=2)
        time.sleep(0.05)

    def kill(self) -> None:
        """End what is left of it."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """Do the trials that are not done, then write what came of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--for", dest="seconds", type=float, default=float("inf"), help="begin no trial after these")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    kinds = plan(args.trials, args.seed)
    if left := [number for number in range(args.trials) if not result(args.dir, number).exists()]:
        with open_cluster() as nodes:
            calm(args.dir, nodes)
            two_lanes(args.dir, {number: kinds[number] for number in left}, nodes, args.seed, args.seconds)
    if not all(result(args.dir, number).exists() for number in range(args.trials)):
        sys.exit(RankLost.exit_code)
    rows = [json.loads(result(args.dir, number).read_text()) for number in range(args.trials)]
    write("faults", {
        "date": date.today().isoformat(), "machine": machine(),
        "command": f"python -m bench.faults --trials {args.trials} --seed {args.seed}",
        "wall_s": round(sum(row["seconds"] for row in rows), 1), "limit_s": LIMIT_S, "trials": len(rows),
        "kinds": {kind: summary([row for row in rows if row["kind"] == kind]) for kind in KINDS if kind in kinds},
    })  # fmt: skip
    if any(row["problem"] for row in rows):
        sys.exit("not every fault was survived")


def two_lanes(dir: Path, kinds: dict[int, str], nodes: list[Node], seed: int, seconds: float) -> None:
    """Do trials, by number, while there is time: those on the nodes in turn, and the others beside them."""
    end = time.monotonic() + seconds

    def lane(numbers: Sequence[int]) -> None:
        for number in numbers:
            if time.monotonic() > end:
                return
            with claimed(dir / f"{number:02d}.lock") as ours:
                if ours and not result(dir, number).exists():
                    found = tried(dir, number, kinds[number], nodes, seed)
                    result(dir, number).write_text(json.dumps(found) + "\n")
                    print(f"{number:02d} {found}", flush=True)

    on_nodes = [number for number, kind in kinds.items() if KINDS[kind][0] in ON_NODES]
    with ThreadPoolExecutor(2) as lanes:  # most of a trial is waiting
        list(lanes.map(lane, (on_nodes, [number for number in kinds if number not in on_nodes])))


def result(dir: Path, number: int) -> Path:
    """Where the result of a trial is kept."""
    return dir / f"{number:02d}.json"


def plan(trials: int, seed: int) -> list[str]:
    """The kinds of fault in a random order, each as often as the others; fewer trials are the first of more."""
    rng = random.Random(seed)
    rounds = [rng.sample(list(KINDS), len(KINDS)) for _ in range(-(-trials // len(KINDS)))]
    return [kind for one in rounds for kind in one][:trials]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What came of all trials of a kind."""
    survived = [row for row in rows if not row["problem"]]
    return {
        "trials": len(rows),
        "recovered": sum(row["ended"] == "recovered" for row in survived),
        "stopped_resumable": sum(row["ended"] == "stopped" for row in survived),
        "failed": len(rows) - len(survived),
        "exit_codes": sorted({code for row in rows for code in row["codes"]}),
        "longest_to_stop_s": max((row["stop_s"] for row in survived if row["ended"] == "stopped"), default=None),
        "longest_to_recovery_s": max((row["recovery_s"] for row in survived), default=None),
        "record_complete": sum(row["record_complete"] for row in rows),
        "weights_equal": sum(row["weights_equal"] for row in rows),
    }


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether what the file stands for is ours for as long as the block, or this process, lasts."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def calm(dir: Path, nodes: list[Node]) -> None:
    """What every trial starts from, and undisturbed runs of one rank and of two, whose weights are the right ones."""
    if not (dir / "base").exists():
        made = Trial(fresh(dir / "making", None), nodes, random.Random(0))
        made.commands = [(None, command("--until", "general"), {})]
        made.start()
        if made.end() != [0]:
            raise Failed(f"the recipe does not run: {dir / 'making/said.txt'}")
        (dir / "making").rename(dir / "base")
    for ranks in (1, 2):
        if not (dir / f"calm-{ranks}").exists():
            made = Trial(fresh(dir / "making", dir / "base"), nodes, random.Random(0))
            made.commands = [(None, command("--procs", str(ranks)), {})]
            made.start()
            if made.end() != [0]:
                raise Failed(f"the recipe does not run: {dir / 'making/said.txt'}")
            (dir / "making").rename(dir / f"calm-{ranks}")


def fresh(folder: Path, base: Path | None) -> Path:
    """A folder for a run, with what is done already."""
    shutil.rmtree(folder, ignore_errors=True)
    if base:
        shutil.copytree(base / "run", folder / "run")
    folder.mkdir(exist_ok=True)
    (folder / "short.toml").write_text(RECIPE)
    return folder


def command(*words: str) -> list[str]:
    """The command line of a run up to R1-Zero."""
    until = () if "--until" in words else ("--until", "zero")
    return [sys.executable, "-m", "thinkery.cli", "run", "short.toml", "--dir", "run", *until, *words]


def tried(dir: Path, number: int, kind: str, nodes: list[Node], seed: int) -> dict[str, Any]:
    """One trial: run, fault, perhaps the same command again, and a look at what is left."""
    began = time.monotonic()
    found: dict[str, Any] = {"kind": kind, "ended": "failed", "codes": [], "problem": ""}
    setting, fault = KINDS[kind]
    with ExitStack() as stack:
        folder = fresh(dir / f"trial-{number:02d}", None)
        if kind == "a disk that is full":
            stack.enter_context(small_disk(folder))
        here = nodes if setting in ON_NODES else []
        trial = Trial(fresh_in(folder, dir / "base"), here, random.Random(f"{seed} {number}"), number // len(KINDS))
        stack.callback(trial.kill)
        try:
            found |= disturbed(trial, setting, fault)
        except (Failed, ThinkeryError) as failed:
            found["problem"] = str(failed)
        found |= checked(trial.folder, dir / f"calm-{2 if setting in (two_ranks, ranks_apart) else 1}")
        if not (found["record_complete"] and found["weights_equal"]):
            found["problem"] = found["problem"] or "the record or the weights differ"
        if found["problem"]:
            shutil.copytree(trial.folder, dir / f"failed-{number:02d}", dirs_exist_ok=True)
    shutil.rmtree(dir / f"trial-{number:02d}")
    found["seconds"] = round(time.monotonic() - began, 1)
    return found


def fresh_in(folder: Path, base: Path) -> Path:
    """A run's folder filled in place, since it may be a disk of its own."""
    shutil.copytree(base / "run", folder / "run", dirs_exist_ok=True)
    (folder / "short.toml").write_text(RECIPE)
    return folder


def disturbed(trial: Trial, setting: Callable[[Trial], None], fault: Fault) -> dict[str, Any]:
    """Run to a random update, do the fault, undo what of it can be undone, and run to the end."""
    setting(trial)
    trial.start()
    if not trial.reach(trial.rng.randint(1, UPDATES - 4)):
        raise Failed(f"the run ended before the fault with {trial.end()}")
    begun, reached = time.monotonic(), updates(trial.folder)[-1]
    must_end, undo = fault(trial)
    trial.gone = time.time()
    stopped = must_end or not goes_on(trial)
    found: dict[str, Any] = {"codes": [], "ended": "recovered"}
    if stopped:
        codes = trial.end()
        found = {"codes": sorted(set(codes)), "ended": "stopped", "stop_s": round(time.monotonic() - begun, 1)}
    undo()
    if stopped:
        wrong = [code for code in found["codes"] if code not in allowed(fault)]
        if wrong:
            raise Failed(f"the run ended with {found['codes']}: {last_words(trial.folder)}")
        trial.gone = time.time()
        reached = max(updates(trial.folder), default=0)
        trial.start()
    if any(trial.end()):
        raise Failed(f"the run ended with {trial.codes}: {last_words(trial.folder)}")
    ended = time.time()
    later = [row["at"] for row in rows(trial.folder, "metrics.jsonl") if row["step"] > reached and "optim/loss" in row]
    found["recovery_s"] = round(min(at for at in [*later, ended] if at > trial.gone) - trial.gone, 1)
    return found


def goes_on(trial: Trial) -> bool:
    """Whether another update comes before the attempt ends."""
    before = max(updates(trial.folder), default=0)
    return before == UPDATES or trial.reach(before + 1) or not any(trial.end())


def allowed(fault: Fault) -> tuple[int, ...]:
    """The exit codes of a run that can be resumed: 75, or 1 where no checkpoint found room since it was begun."""
    return (75, 1) if fault is fill_the_disk else (75,)


def last_words(folder: Path) -> str:
    """What the run said last."""
    return " | ".join((folder / "said.txt").read_text(errors="replace").splitlines()[-3:])


# Where a run works. ------------------------------------------------------------------------------------------------


def alone(trial: Trial) -> None:
    """One process, which samples itself."""
    trial.commands = [(None, command(), {})]


def on_the_cluster(trial: Trial) -> None:
    """A learner on the first node, two actors on the second."""
    address = f"{trial.nodes[0].address}:6379"
    words = command(f'zero.engine.ray="{address}"', "zero.engine.processes=2")
    trial.commands = [(trial.nodes[0], words, {})]


def two_ranks(trial: Trial) -> None:
    """Two ranks of one machine."""
    trial.commands = [(None, command("--procs", "2"), {})]


def ranks_apart(trial: Trial) -> None:
    """A rank on each node, as torchrun would start them."""
    port = PORT + trial.rng.randrange(1000)
    common = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": trial.nodes[0].address, "MASTER_PORT": str(port)}
    trial.commands = [
        (node, command(), {**common, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "eth0"})
        for rank, node in enumerate(trial.nodes)
    ]


ON_NODES = (on_the_cluster, ranks_apart)
"""Settings that take the nodes, one trial at a time."""


# What is done to it: each says whether the run must end of it, and how to undo it. ----------------------------------

Undo = Callable[[], None]
Fault = Callable[[Trial], tuple[bool, Undo]]


def nothing() -> None:
    """There is nothing to undo."""


def kill_an_actor(trial: Trial) -> tuple[bool, Undo]:
    """A process that samples on the second node."""
    os.kill(trial.rng.choice(actors(trial.nodes[1])), signal.SIGKILL)
    return False, nothing


def kill_a_rank(trial: Trial) -> tuple[bool, Undo]:
    """One of two that train."""
    os.kill(trial.rng.choice(ranks(trial)), signal.SIGKILL)
    return True, nothing


def kill_the_node(trial: Trial) -> tuple[bool, Undo]:
    """All that runs on the second node; Ray is started there again soon, or only when the run has given up."""
    head, node = trial.nodes
    node.kill()
    if trial.rng.random() < 0.3:
        return True, lambda: node.start_ray(head, processors=2)
    time.sleep(trial.rng.uniform(0, 5))
    node.start_ray(head, processors=2)
    return False, nothing


def kill_the_head(trial: Trial) -> tuple[bool, Undo]:
    """Ray's own processes beside the learner, on the node that knows of all others."""
    head, other = trial.nodes
    head.kill(spare=family(trial.processes[0].pid))

    def again() -> None:
        other.kill()
        start_cluster(trial.nodes)

    return True, again


def cut_the_cluster(trial: Trial) -> tuple[bool, Undo]:
    """The cable of the node that samples, for a moment or for longer than Ray waits: its Ray then has to start anew."""
    node = trial.nodes[1]
    node.cut()
    time.sleep(trial.rng.choice((2, 5, 12, 20)))
    node.mend()
    return False, nothing


def cut_the_ranks(trial: Trial) -> tuple[bool, Undo]:
    """The cable between two that train, until both have given up."""
    trial.nodes[1].cut()
    return True, trial.nodes[1].mend


def fill_the_disk(trial: Trial) -> tuple[bool, Undo]:
    """The one on which the run directory is."""
    filler = trial.folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**12))
    return True, filler.unlink


def stop_an_actor(trial: Trial) -> tuple[bool, Undo]:
    """A process that samples."""
    return stopped(trial, trial.rng.choice(actors(trial.nodes[1])))


def stop_a_rank(trial: Trial) -> tuple[bool, Undo]:
    """One of two that train, for good: it lives and closes no connection."""
    os.kill(trial.rng.choice(ranks(trial)), signal.SIGSTOP)
    return True, nothing


def stop_the_run(trial: Trial) -> tuple[bool, Undo]:
    """The learner and all its children, as a laptop that is closed."""
    return stopped(trial, *family(trial.processes[0].pid))


KINDS: dict[str, tuple[Callable[[Trial], None], Fault]] = {
    "a rollout actor killed": (on_the_cluster, kill_an_actor),
    "a trainer rank killed": (two_ranks, kill_a_rank),
    "a node killed": (on_the_cluster, kill_the_node),
    "the head of the cluster killed": (on_the_cluster, kill_the_head),
    "the network to the actors cut": (on_the_cluster, cut_the_cluster),
    "a disk that is full": (alone, fill_the_disk),
    "a rollout actor stopped": (on_the_cluster, stop_an_actor),
    "a trainer rank stopped": (two_ranks, stop_a_rank),
    "the network between ranks cut": (ranks_apart, cut_the_ranks),
    "the learner stopped": (on_the_cluster, stop_the_run),
}


def stopped(trial: Trial, *pids: int) -> tuple[bool, Undo]:
    """Hold processes up for a minute, or for some seconds in other rounds."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep((60, 4, 15)[trial.round % 3])
    for pid in pids:
        with suppress(ProcessLookupError):  # taken for dead, and killed meanwhile
            os.kill(pid, signal.SIGCONT)
    return False, nothing


def actors(node: Node) -> list[int]:
    """Ray's actors on a node."""
    found = [pid for pid in node.pids() if words(pid, "cmdline").startswith(b"ray::Actor")]
    if not found:
        raise Failed("there is no actor on the node")
    return found


def ranks(trial: Trial) -> list[int]:
    """The processes that the launcher has started."""
    return [pid for pid in family(trial.processes[0].pid)[1:] if b"\0RANK=" in words(pid, "environ") and trains(pid)]


def trains(pid: int) -> bool:
    """Whether a process is a rank and not one of its helpers."""
    return b"thinkery.cli" in words(pid, "cmdline")


def family(pid: int) -> list[int]:
    """A process and all that descends from it."""
    children = words(pid, f"task/{pid}/children").split()
    return [pid, *(one for child in children for one in family(int(child)))]


def words(pid: int, name: str) -> bytes:
    """A file of /proc about a process, empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


# What is left. -------------------------------------------------------------------------------------------------------


def checked(folder: Path, calm: Path) -> dict[str, bool]:
    """Whether every update and every sample is in the record once, and the weights are the calm run's."""
    asked = [(row["step"], row["task"], row["sample"]) for row in rows(folder, "rollouts/*.jsonl.gz")]
    whole = updates(folder) == list(range(1, UPDATES + 1))
    whole = whole and len(asked) == len(set(asked)) == UPDATES * QUESTIONS * SAMPLES
    return {"record_complete": whole, "weights_equal": weights(folder) == weights(calm) != ""}


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file of the step zero, finished or not."""
    found = [line for path in sorted(folder.glob(f"run/steps/zero-*/{name}")) for line in lines(path)]
    return [json.loads(line) for line in found if line.endswith("\n")]


def lines(path: Path) -> list[str]:
    """The lines of a file, gzipped or not; none where it has just moved."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            return list(file)
    except FileNotFoundError:
        return []


def updates(folder: Path) -> list[int]:
    """The updates in the record, in order."""
    return [row["step"] for row in rows(folder, "metrics.jsonl") if "optim/loss" in row]


def weights(folder: Path) -> str:
    """The hash of what was learnt, empty where nothing was."""
    found = [json.loads(path.read_text())["content"] for path in folder.glob("run/steps/zero-????????/artifact.json")]
    return found[0] if found else ""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


if __name__ == "__main__":
    main()
