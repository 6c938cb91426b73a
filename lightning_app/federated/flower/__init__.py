"""Flower around our server and owners: apps, the programs of a deployment, and its hooks."""
