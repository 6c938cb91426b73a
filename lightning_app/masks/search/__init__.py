"""The search of one mask for a whole set: candidates, objective, strategies (paper, Algorithm 1)."""
