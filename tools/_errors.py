"""One line for bad input, and exit code 2, as the stages have it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mer.errors import MerError, explained
from mer.project import check_encoding

BAD_INPUT = 2


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Around a tool's main: MerError, errors of the operating system and short memory become one line on stderr."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends nothing
        stream.reconfigure(errors="backslashreplace")
    try:
        check_encoding()
        yield
    except MerError as error:
        text = str(error)
    except BrokenPipeError:  # whoever read it has seen enough, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        text = line
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    else:
        return
    print(f"{name}: {text}", file=sys.stderr)
    sys.exit(BAD_INPUT)
