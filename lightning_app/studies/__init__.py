"""What commands do that take many runs or many measurements, and the runner of these runs."""
