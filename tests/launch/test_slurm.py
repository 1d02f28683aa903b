"""The script of `--write slurm` in a real Slurm, whose two nodes are both this machine, and which lies in a folder.

    apt-get install --no-install-recommends slurm-wlm          # as root, who alone may start it
    python -m pytest -m slow tests/launch/test_slurm.py

Slurm is told that each node has all processors of the machine, and two GPUs, which are other devices: nothing here
shows what it does with real ones, nor what a network between nodes does.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from thinkery.launch.jobs import slurm
from thinkery.launch.local import free_port
from thinkery.pipeline.read import open_run

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
LACKING = [name for name in PROGRAMS if not shutil.which(name)] + ["root's rights"] * (os.geteuid() != 0)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"lacks {', '.join(LACKING)}; as root: apt-get install slurm-wlm"),
]
NODES = (socket.gethostname(), f"{socket.gethostname()}-2")
"""Names of the nodes; of the first, where rank 0 listens, this machine knows the address."""
PROCESSORS = max(2, os.cpu_count() or 1)
CONF = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.txt
SlurmdLogFile={folder}/slurmd.%n.txt
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
MailProg=/bin/true
KillWait=5
GresTypes=gpu
NodeName=DEFAULT CoresPerSocket={processors} Gres=gpu:2 State=UNKNOWN
NodeName={nodes[0]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]}
NodeName={nodes[1]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PATIENCE_S = 180.0
BEFORE_THE_END = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


@dataclass(frozen=True, slots=True)
class Slurm:
    """A cluster that runs: where it lies, and the environment that its programs need."""

    folder: Path
    env: dict[str, str]
    serving: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def says(self, *words: str) -> str:
        """What a program of Slurm's prints."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def submit(self, folder: Path, script: str, *options: str, **env: str) -> str:
        """Give a script to sbatch, which finds the `thinkery` of the folder; the number of the job."""
        (folder / "job.sh").write_text(script)
        env = {**self.env, **env, "PATH": f"{folder}:{self.env['PATH']}"}
        words = ["sbatch", "--parsable", *options, "job.sh"]
        done = subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.says("scontrol", "--oneliner", "show", "job", job)))

    def ended(self, job: str, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """What Slurm says of a job, once it is neither running nor waiting any more."""
        wait_until(lambda: self.job(job)["JobState"] not in BEFORE_THE_END, self, patience_s)
        return self.job(job)


@contextmanager
def open_slurm(folder: Path) -> Iterator[Slurm]:
    """Start munge, the controller and both nodes, with their ports, keys and files in a folder, and end them again."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = [free_port() for _ in range(3)]
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, processors=PROCESSORS, nodes=NODES, ports=ports))
    (folder / "gres.conf").write_text("AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o400)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munged = ["munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/munge"]
    munged += [f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/seed", f"--log-file={folder}/munged.txt"]
    cluster = Slurm(folder, env)

    def is_idle(node: str) -> bool:
        return cluster.says("sinfo", "--noheader", f"--nodes={node}", "--format=%T") == "idle\n"

    try:
        serve(cluster, munged, (folder / "munge").exists)
        serve(cluster, ["slurmctld", "-D"], lambda: answers(env, "scontrol", "ping"))
        for node in NODES:
            serve(cluster, ["slurmd", "-D", "-N", node], lambda node=node: is_idle(node))
        yield cluster
        subprocess.run(["scancel", "--full", "--user=root"], env=env, check=True)
        wait_until(lambda: not cluster.says("squeue", "--noheader"), cluster)
    finally:
        for process in reversed(cluster.serving):
            process.terminate()
            process.wait(30)


def serve(cluster: Slurm, command: list[str], is_up: Callable[[], bool]) -> None:
    """Start one of Slurm's services, and wait until what it serves is there."""
    with (cluster.folder / "services.txt").open("ab") as log:
        cluster.serving.append(subprocess.Popen(command, env=cluster.env, stdout=log, stderr=subprocess.STDOUT))
    wait_until(is_up, cluster)


def answers(env: dict[str, str], *words: str) -> bool:
    """Whether a program ends well."""
    return subprocess.run(words, env=env, capture_output=True, check=False).returncode == 0


def wait_until(holds: Callable[[], bool], cluster: Slurm, patience_s: float = 60.0) -> None:
    """Until something is so, while all that serves still lives."""
    until = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > until or any(process.poll() is not None for process in cluster.serving):
            pytest.fail("\n".join(f"{path}\n{path.read_text()}" for path in cluster.folder.glob("*.txt")))
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One for all tests here, in a folder that all may enter, as munge wants."""
    with TemporaryDirectory(prefix="slurm-") as name:
        Path(name).chmod(0o755)
        with open_slurm(Path(name)) as opened:
            yield opened


def stand_in(folder: Path, run: str = "exit 0", doctor: str = "exit 0") -> None:
    """A `thinkery` that writes down where it is and its words, and then does as told."""
    place = "$1 $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $SLURMD_NODENAME"
    lines = (
        "#!/bin/bash",
        f'echo "{place}" "${{@:2}}" >> {folder}/told',
        f'if [ "$1" = doctor ]; then {doctor}; fi',
        run,
    )
    (folder / "thinkery").write_text("\n".join(lines))
    (folder / "thinkery").chmod(0o755)


def told(folder: Path) -> list[str]:
    """What the stand-in has written, sorted."""
    return sorted((folder / "told").read_text().splitlines())


WORDS = ["tiny", 'zero.template="a $b"']


def test_four_ranks_on_two_nodes_know_their_places_after_all_were_looked_at(cluster: Slurm, tmp_path: Path):
    stand_in(tmp_path)
    ended = cluster.ended(cluster.submit(tmp_path, slurm(WORDS, nodes=2, procs=2)))
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "0")
    places = [f"{rank} {rank % 2} 4 2 {NODES[0]}:29500 {NODES[rank // 2]}" for rank in range(4)]
    looks = [f"doctor {place} --cluster" for place in places]
    assert told(tmp_path) == [*looks, *(f"run {place} {' '.join(WORDS)}" for place in places)]


def test_one_rank_of_a_node_has_all_its_processors(cluster: Slurm, tmp_path: Path):
    stand_in(tmp_path, run=f"env -u OMP_NUM_THREADS nproc > {tmp_path}/processors")
    cluster.ended(cluster.submit(tmp_path, slurm(["tiny"], nodes=1, procs=1)))
    assert int((tmp_path / "processors").read_text()) == len(os.sched_getaffinity(0))


def test_a_job_that_ends_at_a_checkpoint_is_queued_again_and_goes_on(cluster: Slurm, tmp_path: Path):
    stand_in(tmp_path, run='[ "${SLURM_RESTART_COUNT:-0}" = 0 ] && exit 75; exit 0')
    ended = cluster.ended(cluster.submit(tmp_path, slurm(["tiny"], nodes=1, procs=2)))
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert [line.split()[0] for line in told(tmp_path)] == ["doctor"] * 4 + ["run"] * 4


def test_a_job_that_fails_is_not_queued_again(cluster: Slurm, tmp_path: Path):
    stand_in(tmp_path, run="exit 4")
    ended = cluster.ended(cluster.submit(tmp_path, slurm(["tiny"], nodes=1, procs=2)))
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "4:0", "0")


def test_a_rank_that_differs_ends_the_job_before_its_work_while_another_still_waits(cluster: Slurm, tmp_path: Path):
    stand_in(tmp_path, doctor='[ "$RANK" = 1 ] && exit 5; sleep 1000')
    ended = cluster.ended(cluster.submit(tmp_path, slurm(["tiny"], nodes=1, procs=2)))
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0")
    assert {line.split()[0] for line in told(tmp_path)} == {"doctor"}


def test_ranks_are_asked_to_stop_before_the_time_is_over_and_the_job_goes_on(cluster: Slurm, tmp_path: Path):
    waits = 'trap "exit 75" TERM; for n in {1..300}; do sleep 1; done; exit 1'
    stand_in(tmp_path, run=f'[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit 0; {waits}')
    job = cluster.submit(tmp_path, slurm(["tiny"], nodes=1, procs=2), "--time=5")  # so that 300 s before is at once
    ended = cluster.ended(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")


@pytest.mark.parametrize(
    ("nodes", "procs", "said"),
    [(1, 1, "to start"), (2, 2, "to start"), (1, 3, "not available"), (3, 2, "not available")],
)
def test_sbatch_takes_what_the_machines_have_and_no_more(
    cluster: Slurm, tmp_path: Path, nodes: int, procs: int, said: str
):
    (tmp_path / "job.sh").write_text(slurm(["tiny"], nodes, procs))
    words = ["sbatch", "--test-only", tmp_path / "job.sh"]
    done = subprocess.run(words, env=cluster.env, capture_output=True, text=True, check=False)
    assert said in done.stderr


FEW = """
extends = "tiny"

[problems]
sources = [{ source = "world", kind = "chain", limit = 12 }]

[zero]
watched = 4

[zero.grpo]
updates = 1500
questions_per_update = 2
group_size = 2
max_tokens = [[0, 12]]
preflight = 0
checkpoint_every = 1
eval_every = 1000
"""


@pytest.mark.timeout(1200)
def test_a_real_run_of_two_nodes_ends_after_the_time_was_over_in_between(cluster: Slurm, tmp_path: Path):
    (tmp_path / "few.toml").write_text(FEW)
    (tmp_path / "thinkery").write_text(f'#!/bin/bash\nexec {sys.executable} -m thinkery.cli "$@"\n')
    (tmp_path / "thinkery").chmod(0o755)
    words = ["few.toml", "--until", "zero", "--dir", "run"]
    job = cluster.submit(tmp_path, slurm(words, nodes=2, procs=1), "--time=6", OMP_NUM_THREADS="1")
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", cluster, PATIENCE_S)
    cluster.says("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # from now on there is time enough
    ended = cluster.ended(job, patience_s=900)
    said = (tmp_path / f"thinkery-{job}.txt").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said
    assert re.search(r"ok +adding up .* 2 ranks", said)
    assert open_run(tmp_path / "run").steps["zero"].status == "done"
    (path,) = (tmp_path / "run/steps").glob("zero-*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows if "optim/loss" in row] == list(range(1, 1501))
