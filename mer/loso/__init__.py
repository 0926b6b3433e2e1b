"""Leave-one-subject-out: `run`, folds, recipes, and the training loop of single and of stacked folds."""
