"""Ctrl-C as one line while the imports run, before a stage or a tool can say it itself. Imports nothing heavy."""

import sys
from types import TracebackType


def one_line(text: str) -> None:
    """From here on an interrupt that nobody has caught prints `text` instead of a traceback; the exit code stays."""

    default = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(text, file=sys.stderr)
        else:
            default(kind, error, traceback)

    sys.excepthook = hook
