"""What only a GPU shows; `python -m pytest tests/gpu -m gpu`, skipped where there is none."""
