"""Leave-one-subject-out: folds, recipes, the training loop of one fold and of many side by side, and `run`."""
