"""The statistics of the scoreboard: pure functions from measurements to figures that say how sure they are."""
