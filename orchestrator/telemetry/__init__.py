"""What operators see of a run: metrics, timelines, a live page, logs and experiment trackers."""
