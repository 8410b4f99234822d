"""Judges made of judges: ensembles, cascades, and a fallback."""
