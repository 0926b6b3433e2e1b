"""Pictures of what a model found in the clips that it was not trained on: one file for each model."""
