"""Macro-expression sets, for pretraining. A set is one module here with `CLASSES` and `read_macro(root, …)`."""
