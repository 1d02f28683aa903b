"""Starting a run on several processes of this machine; torchrun starts those of several machines."""
