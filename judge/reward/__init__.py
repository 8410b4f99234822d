"""Reward and preference models as judges."""
