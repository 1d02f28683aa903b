"""Starting a run on several processes of this machine, or on several machines: torchrun's way, Slurm, KubeRay."""
