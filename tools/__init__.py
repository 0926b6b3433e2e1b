"""What the Makefile calls: presets, the check of all parameters, the closing table, publishing."""
