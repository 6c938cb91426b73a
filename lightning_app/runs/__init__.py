"""A run's folder and what is written into it: checkpoints, logs, locks; every file whole or not at all."""
