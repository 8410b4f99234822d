"""A rehearsal: one tiny round through every stage, on the hardware at hand."""
