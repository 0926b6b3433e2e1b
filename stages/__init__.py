"""The stages of dvc.yaml: `python -m stages.<name> [key]`, run from the project's root."""

import os
import sys

if any(argument.startswith("stages.") for argument in sys.orig_argv):
    # OpenMP's threads wait for each other at full speed by default, 300,000 rounds; beside another process on the same
    # cores a step of a training then takes up to thirty times as long. 1,000 rounds cost 4 % on a quiet machine, no
    # round at all 20 % (docs/log.md). The numbers are the same. libgomp reads it when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Here, before a stage imports what takes seconds: a DVC killed in the meantime would not be noticed.
    from mer import interrupt
    from stages._watch import die_with_parent

    die_with_parent()
    interrupt.one_line("interrupted; finished clips and folds are kept, dvc repro goes on after them")
