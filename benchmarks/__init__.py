"""Ratios against peers and bare loops: `python -m benchmarks [names…] [--json PATH]`."""
