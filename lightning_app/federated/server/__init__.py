"""The federation's server: rounds, its memory, its record."""
