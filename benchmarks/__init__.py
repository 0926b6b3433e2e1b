"""One script per hot path or claim; each prints JSON."""
