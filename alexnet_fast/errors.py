"""The exceptions whose messages are meant for the user."""

import errno


class InputError(ValueError):
    """The command line, a path or a file is wrong. The message says what is wrong, where, and what to do next; the
    command line shows it without a traceback and exits with 2."""


class TrainingError(RuntimeError):
    """Training cannot continue (a loss that is not finite, for one). Shown without a traceback; exit code 1."""


class LostProcessError(TrainingError):
    """Another process of this training, or its machine, has ended."""


def descriptor_error(error: BaseException | None) -> InputError | None:
    """Returns what to raise where `error`, or an error that it was raised from, is for want of file descriptors: the
    limit is at fault then, and no file. None for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return InputError(
                f"too many files are open at once ({error}). Raise the limit, with ulimit -n 65536, and run the same "
                "command again."
            )
        error = error.__cause__
    return None
