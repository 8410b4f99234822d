"""Judges made of judges: ensemble, cascade, fallback."""
