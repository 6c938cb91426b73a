"""Studies made of many runs: comparisons, sweeps over levels, and the runner of their commands."""
