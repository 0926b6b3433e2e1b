"""The stages of dvc.yaml: `python -m stages.<name> [key]`, run from the project's root."""

import sys

if any(argument.startswith("stages.") for argument in sys.orig_argv):
    # Here, before a stage imports what takes seconds: a DVC killed in the meantime would not be noticed.
    from stages._watch import die_with_parent

    die_with_parent()
