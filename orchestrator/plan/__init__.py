"""A run's placement, memory and time, predicted before any of its hardware is there."""
