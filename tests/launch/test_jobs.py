"""Job files: what sbatch and kubectl are given, and that a Slurm script starts the ranks it promises."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from thinkery.launch.jobs import kuberay, slurm

WORDS = ["tiny", "--dir", "/shared/my runs/tiny", 'zero.template="a $b"']
DIRECTIVES = {
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-task", "gpu-bind", "exclusive", "requeue", "open-mode"),
    *("output", "signal"),
}
"""Options of sbatch that a script of ours may use."""
SRUN = """\
#!/bin/bash
shift
for n in 0 1 2 3; do SLURM_PROCID=$n SLURM_LOCALID=$((n % 2)) SLURM_NTASKS=4 "$@" || code=$?; done
exit ${code:-0}
"""


def commands(folder: Path, ending: int) -> dict[str, str]:
    """An environment whose `srun` starts four tasks, and whose `thinkery` writes down its rank and its words."""
    files = {
        "srun": SRUN,
        "scontrol": f'#!/bin/bash\necho "$@" >> {folder}/scontrol; echo node1; echo node2\n',
        "thinkery": f'#!/bin/bash\necho "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR" "$@" >> {folder}/ranks\n'
        f"exit {ending}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "7",
    }


def test_a_slurm_script_is_one_and_uses_known_directives():
    script = slurm(WORDS, nodes=2, procs=2)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    used = [
        line.removeprefix("#SBATCH --").partition("=")[0] for line in script.splitlines() if line.startswith("#SBATCH")
    ]
    assert set(used) == DIRECTIVES
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n" in script


def test_a_slurm_script_gives_every_rank_its_place_and_the_very_words(tmp_path: Path):
    script = slurm(WORDS, nodes=2, procs=2)
    assert subprocess.run(["bash"], input=script, text=True, env=commands(tmp_path, 0), check=False).returncode == 0
    words = " ".join(["run", *WORDS])
    assert (tmp_path / "ranks").read_text().splitlines() == [f"{n} {n % 2} 4 node1 {words}" for n in range(4)]
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_a_job_that_stopped_at_a_checkpoint_is_queued_again(tmp_path: Path):
    script = slurm(WORDS, nodes=2, procs=2)
    assert subprocess.run(["bash"], input=script, text=True, env=commands(tmp_path, 75), check=False).returncode == 75
    assert (tmp_path / "scontrol").read_text().splitlines()[-1] == "requeue 7"


def test_a_ray_job_runs_the_words_on_the_head_and_engines_on_the_workers():
    job = yaml.safe_load(kuberay(WORDS, nodes=3, procs=8))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert shlex.split(job["spec"]["entrypoint"]) == ["thinkery", "run", *WORDS, "--on", "auto"]
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
        assert container["volumeMounts"][0]["name"] == group["template"]["spec"]["volumes"][0]["name"]


def test_the_command_line_prints_the_file_without_the_words_that_ask_for_it():
    words = [
        "run",
        "tiny",
        "--write",
        "slurm",
        "--procs=8",
        "zero.grpo.updates=3",
        "--nodes",
        "4",
        "--dir",
        "/shared/r",
    ]
    done = subprocess.run([sys.executable, "-m", "thinkery.cli", *words], capture_output=True, text=True, check=True)
    assert "thinkery run tiny zero.grpo.updates=3 --dir /shared/r\n" in done.stdout
    assert "--nodes=4\n#SBATCH --ntasks-per-node=8\n" in done.stdout
