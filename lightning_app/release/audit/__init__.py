"""The audit of a release, with and without its raw images."""
