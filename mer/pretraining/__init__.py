"""Training of networks before the folds: one loop, and one file for each task."""
