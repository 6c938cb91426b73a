"""What every room may use: batches, draws, files, text for terminals and CSV, pixels of PNG; no Lightning in it."""
