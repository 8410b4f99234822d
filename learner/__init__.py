"""Learner: preference pairs in, a better policy out."""
