"""Verification sets: lists of pairs, their folds, and the images they name."""
