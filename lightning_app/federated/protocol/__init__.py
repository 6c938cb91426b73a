"""What server and owners of a federation agree on: the plan, messages, weights that travel, how they are averaged."""
