"""Rollouts and corpora become weights: GRPO, supervised training, reward models, and the alarms that watch them."""
