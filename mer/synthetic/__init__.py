"""The synthetic corpus: rendered micro-expressions with known motion, and a pool of other people for pretraining."""
