"""`python -m alexnet_fast` is `alexnet-fast`; torchrun starts it this way."""

from __future__ import annotations

import atexit
import os
import sys

from alexnet_fast import signals


def run() -> None:
    """Runs the command line and ends the process with its exit code, without Python's and the C++ libraries' clean-up:
    threads that are ending meanwhile have made finished processes die of a signal ("terminate called without an active
    exception")."""
    code: int | None = None
    try:
        try:
            with signals.nothing_begun():
                from alexnet_fast.cli.main import main
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except OSError as error:  # of standard output: what was printed is lost
        if not code:  # else its message was printed
            os.write(2, f"Error: {error}\n".encode())
        code = code or 2
    os._exit(code or 0)


if __name__ == "__main__":
    run()
