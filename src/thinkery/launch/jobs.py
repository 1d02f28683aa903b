"""Job files for machines of a cluster: `thinkery run RECIPE … --write slurm > job.sh`, or `--write kuberay > job.yaml`.

Slurm starts `--procs` ranks on each of `--nodes` machines, which train together (`pipeline/ranks.py`). KubeRay starts a
Ray cluster of as many machines, whose engines sample for one learner on its head. Both need a folder that all machines
see, for the run directory. Both first have `thinkery doctor --cluster` look at every rank or machine, and do not begin
where versions differ. Slurm starts again what ended resumable, KubeRay whatever failed, ten times.

`tests/launch/test_slurm.py` runs the script with a real Slurm, both of whose nodes are the machine of the test;
`tests/launch/test_jobs.py` holds the RayJob against a schema. No other cluster, and no Kubernetes, has had either file.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence

import thinkery
from thinkery.errors import RankLost

PORT = 29500
"""Where rank 0 listens for the others; torchrun's own default."""
GRACE_S = 300
"""Seconds before the end of its time at which Slurm asks a job to stop, for it to write a checkpoint."""

SLURM = """\
#!/bin/bash
# {title}
# What is your site's own goes to the command line: sbatch --partition=… --time=… job.sh
#SBATCH --job-name=thinkery
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={procs}
#SBATCH --gpus-per-task=1
#SBATCH --gpu-bind=none
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=thinkery-%j.txt
#SBATCH --signal=TERM@{grace}
set -uo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT={port}
ranks() {{  # thinkery with these words as every rank; $1: whether one that fails ends the others
    srun --kill-on-bad-exit="$1" bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={procs}
        exec thinkery "$@"
    ' thinkery "${{@:2}}"
}}

ranks 1 doctor --cluster || exit  # before any work: do all answer, with the same versions?
ranks 0 {words}
code=$?
if [ "$code" -eq {resumable} ]; then  # stopped at a checkpoint: the same job continues
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

KUBERAY = """\
# {title}
# The image has Thinkery with its extra `ray`, and ray[default], which takes jobs.
# The claim is a volume that all machines may write.
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: thinkery
spec:
  entrypoint: {entrypoint}
  shutdownAfterJobFinishes: true
  backoffLimit: 10
  rayClusterSpec:
    headGroupSpec:
      rayStartParams:
        num-gpus: "0"  # the head's GPUs are the learner's, not the engines'
      template:
        spec: &machine
          containers:
            - name: ray
              image: {image}
              resources:
                limits:
                  nvidia.com/gpu: {procs}
              volumeMounts:
                - name: runs
                  mountPath: /runs
          volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: {claim}
    workerGroupSpecs:
      - groupName: engines
        replicas: {workers}
        minReplicas: {workers}
        maxReplicas: {workers}
        rayStartParams: {{}}
        template:
          spec: *machine
"""


def slurm(words: Sequence[str], nodes: int, procs: int) -> str:
    """A script for sbatch that gives every rank the words of `thinkery run`, and queues itself again after a stop."""
    settings = {"nodes": nodes, "procs": procs, "grace": GRACE_S, "port": PORT, "resumable": RankLost.exit_code}
    return SLURM.format(title=title(words, "slurm"), words=shlex.join(["run", *words]), **settings)


def kuberay(words: Sequence[str], nodes: int, procs: int) -> str:
    """A RayJob for kubectl: the words to `thinkery run` on the head, engines on `nodes` other machines."""
    run = shlex.join(["thinkery", "run", *words, "--on", "auto"])
    # one word for the shell of KubeRay's submitter, which would do itself what comes after &&
    entrypoint = shlex.join(["sh", "-c", f"thinkery doctor --cluster auto && exec {run}"])
    image = f"thinkery:{thinkery.__version__}"
    settings = {"image": image, "claim": "thinkery-runs", "procs": procs, "workers": nodes}
    quoted = json.dumps(entrypoint, ensure_ascii=False)  # YAML has no halves of a character, as JSON's escapes are
    return KUBERAY.format(title=title(words, "kuberay"), entrypoint=quoted, **settings)


def words_of(words: Sequence[str]) -> list[str]:
    """The words of a command line behind `thinkery run`, without those that only say how to write a job file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--write", "--nodes", "--procs"):
        parser.add_argument(option)
    return parser.parse_known_args(words)[1]


def title(words: Sequence[str], kind: str) -> str:
    """Where a file comes from, in one line: what follows a line's end is no comment any more."""
    command = " ".join(shlex.join(["thinkery", "run", *words]).splitlines())
    return f"Written by: {command} --write {kind}"


WRITTEN = {"slurm": slurm, "kuberay": kuberay}
"""Job files by the name that `--write` gives."""
