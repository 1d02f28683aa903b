"""Job files: what sbatch and kubectl are given, and that they start what they promise.

The RayJob is held against `rayjob.json`, KubeRay's own fields written down by hand, and `pods.json.gz`, Kubernetes'
pods as `pods.py` makes them of a package. `test_slurm.py` has a real Slurm.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from thinkery.launch.jobs import kuberay, slurm

HERE = Path(__file__).parent
WORDS = ["tiny", "--dir", "/shared/my runs/tiny", 'zero.template="a $b"']
ODD = ["tiny", 'zero.template="It\'s\n{question} `a` \\ 问题 \N{GRINNING FACE}"', "--seed", "1"]
"""Words with what shells, YAML and comments take for their own."""
SRUN = """\
#!/bin/bash
echo "$1" >> {folder}/srun.txt
shift
for n in 0 1 2 3; do SLURM_PROCID=$n SLURM_LOCALID=$((n % 2)) SLURM_NTASKS=4 "$@" || code=$?; done
exit ${code:-0}
"""


def commands(folder: Path, *, doctor: int = 0, run: int = 0) -> dict[str, str]:
    """An environment whose `srun` starts four tasks, and whose `thinkery` writes down its rank and its words."""
    files = {
        "srun": SRUN.replace("{folder}", str(folder)),
        "scontrol": f'#!/bin/bash\necho "$@" >> {folder}/scontrol.txt; echo node1; echo node2\n',
        "thinkery": f'#!/bin/bash\necho "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR" "$@" >> {folder}/$1.txt\n'
        f'[ "$1" = run ] && exit {run}; exit {doctor}\n',
    }
    for name, text in files.items():
        program(folder / name, text)
    return {**on_path(folder), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}


def program(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)


def on_path(folder: Path) -> dict[str, str]:
    """An environment that finds a folder's programs first."""
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("words", [WORDS, ODD], ids=["plain", "odd"])
def test_a_slurm_script_looks_at_all_ranks_and_gives_each_its_place_and_the_very_words(
    tmp_path: Path, words: list[str]
):
    script = slurm(words, nodes=2, procs=2)
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n" in script
    assert subprocess.run(["bash"], input=script, text=True, env=commands(tmp_path), check=False).returncode == 0
    places = [f"{n} {n % 2} 4 node1 " for n in range(4)]
    assert (tmp_path / "doctor.txt").read_text() == "".join(f"{place}doctor --cluster\n" for place in places)
    assert (tmp_path / "run.txt").read_text() == "".join(f"{place}{' '.join(['run', *words])}\n" for place in places)
    assert (tmp_path / "srun.txt").read_text() == "--kill-on-bad-exit=1\n--kill-on-bad-exit=0\n"
    assert "requeue" not in (tmp_path / "scontrol.txt").read_text()


def test_a_job_whose_machines_differ_does_not_begin(tmp_path: Path):
    script, env = slurm(WORDS, nodes=2, procs=2), commands(tmp_path, doctor=5, run=75)
    assert subprocess.run(["bash"], input=script, text=True, env=env, check=False).returncode == 5
    assert not (tmp_path / "run.txt").exists()
    assert "requeue" not in (tmp_path / "scontrol.txt").read_text()


def test_a_job_that_stopped_at_a_checkpoint_is_queued_again(tmp_path: Path):
    script = slurm(WORDS, nodes=2, procs=2)
    env = commands(tmp_path, run=75)
    assert subprocess.run(["bash"], input=script, text=True, env=env, check=False).returncode == 75
    assert (tmp_path / "scontrol.txt").read_text().splitlines()[-1] == "requeue 7"


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """What KubeRay and Kubernetes know of a RayJob; unknown fields are refused."""
    known = json.loads((HERE / "rayjob.json").read_text())
    known["$defs"] |= json.loads(gzip.decompress((HERE / "pods.json.gz").read_bytes()))
    Draft202012Validator.check_schema(known)
    return Draft202012Validator(known)


def refused(schema: Draft202012Validator, job: object) -> list[str]:
    """Where and why a RayJob does not hold."""
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(job)]


@pytest.mark.parametrize("words", [WORDS, ODD], ids=["plain", "odd"])
@pytest.mark.parametrize(("nodes", "procs"), [(1, 1), (1, 8), (3, 8), (64, 4)])
def test_a_ray_job_has_only_fields_that_kuberay_and_kubernetes_know(
    schema: Draft202012Validator, words: list[str], nodes: int, procs: int
):
    job = yaml.safe_load(kuberay(words, nodes, procs))
    assert refused(schema, job) == []
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (nodes, nodes, nodes)
    for group in (cluster["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        assert re.fullmatch(r"thinkery:[\w][\w.-]{0,127}", container["image"])
        assert container["resources"]["limits"] == {"nvidia.com/gpu": procs}
        assert container["volumeMounts"][0]["name"] == group["template"]["spec"]["volumes"][0]["name"]


def rename(*path: str | int, to: str) -> Callable[[Any], None]:
    """A change of a RayJob: the last key of a path has another name."""

    def change(job: Any) -> None:
        for key in path[:-1]:
            job = job[key]
        job[to] = job.pop(path[-1])

    return change


CLUSTER = ("spec", "rayClusterSpec")
CONTAINER = (*CLUSTER, "headGroupSpec", "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (rename("spec", "entrypoint", to="entryPoint"), "$.spec: *'entryPoint' was unexpected"),
        (rename("spec", "backoffLimit", to="backOffLimit"), "$.spec: *'backOffLimit' was unexpected"),
        (rename(*CLUSTER, "workerGroupSpecs", to="workerGroupSpec"), "$.spec.rayClusterSpec: *unexpected"),
        (rename(*CLUSTER, "workerGroupSpecs", 0, "maxReplicas", to="maxReplica"), "*'maxReplicas' is a required *"),
        (rename(*CONTAINER, "volumeMounts", to="volumeMount"), "*containers[[]0]: *'volumeMount' was unexpected"),
        (rename(*CONTAINER, "volumeMounts", 0, "mountPath", to="path"), "*'mountPath' is a required property"),
        (lambda job: job["metadata"].update(name="Thinkery"), "$.metadata.name: *"),
        (lambda job: job["spec"].update(backoffLimit="10"), "$.spec.backoffLimit: '10' is not of type 'integer'"),
        (
            lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(rayStartParams={"a": 0}),
            "*: 0 is not of type *",
        ),
    ],
)
def test_a_wrong_field_of_a_ray_job_is_refused(schema: Draft202012Validator, change: Callable[[Any], None], why: str):
    job = json.loads(json.dumps(yaml.safe_load(kuberay(WORDS, 3, 8))))  # the head's and the workers' pods apart
    change(job)
    found = refused(schema, job)
    assert any(fnmatchcase(one, f"{why}*") for one in found), found


RAY = """\
#!{python}
import shlex, subprocess, sys
words = sys.argv[sys.argv.index("--") + 1 :]
sys.exit(subprocess.run(shlex.join(words), shell=True).returncode)
"""
"""What `ray job submit -- WORDS` does in the end: a shell of the head's gets the words as one line."""


@pytest.mark.parametrize("words", [WORDS, ODD], ids=["plain", "odd"])
@pytest.mark.parametrize("submitter", ["ray job submit --address http://head:8265 --no-wait -- {} ;", "{}"])
def test_the_head_looks_at_all_machines_and_then_runs_the_very_words(tmp_path: Path, words: list[str], submitter: str):
    program(tmp_path / "ray", RAY.replace("{python}", sys.executable))
    entrypoint = yaml.safe_load(kuberay(words, 1, 1))["spec"]["entrypoint"]
    told = tmp_path / "told"
    for doctor, code in ((0, 9), (5, 5)):
        ending = f'[ "$1" = doctor ] && exit {doctor}; exit 9'
        program(tmp_path / "thinkery", f'#!/bin/bash\nprintf "%s\\0" "$@" "" >> {told}\n{ending}\n')
        done = subprocess.run(["bash", "-c", submitter.format(entrypoint)], env=on_path(tmp_path), check=False)
        assert done.returncode == code
    looks, runs = ["doctor", "--cluster", "auto", ""], ["run", *words, "--on", "auto", ""]
    assert told.read_text().split("\0")[:-1] == [*looks, *runs, *looks]


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
    assert "\nranks 0 run tiny zero.grpo.updates=3 --dir /shared/r\n" in done.stdout
    assert "--nodes=4\n#SBATCH --ntasks-per-node=8\n" in done.stdout


def test_a_job_that_may_be_started_again_does_not_begin_anew_each_time():
    words = [sys.executable, "-m", "thinkery.cli", "run", "tiny", "--write", "slurm", "--fresh"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a job that is started again would begin anew each time" in done.stderr
