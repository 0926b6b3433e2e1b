"""The synthetic corpus: rendered micro-expressions with known motion, and a pool of other people for pretraining."""

FPS = 200.0  # of its recordings
