"""Rollout: prompts in, completions of the current policy out."""
