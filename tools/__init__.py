"""What the Makefile calls: presets, the check of all parameters, the closing table, publishing."""

import sys

from mer import interrupt

for _argument in sys.orig_argv:
    if _argument.startswith("tools."):
        interrupt.one_line(f"{_argument.removeprefix('tools.')}: interrupted")
