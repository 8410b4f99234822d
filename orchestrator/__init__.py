"""Orchestrator: the loop that ties rollout, judge and learner into one job."""
