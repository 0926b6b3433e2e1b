"""The stages of dvc.yaml: `python -m stages.<name> [key]`, run from the project's root."""
