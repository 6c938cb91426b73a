"""Faces of nobody, drawn from a seed."""
