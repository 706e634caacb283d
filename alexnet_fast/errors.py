"""The exceptions whose messages are meant for the user."""


class InputError(ValueError):
    """The command line, a path or a file is wrong. The message says what is wrong, where, and what to do next; the
    command line shows it without a traceback and exits with 2."""


class TrainingError(RuntimeError):
    """Training cannot continue (a loss that is not finite, for one). Shown without a traceback; exit code 1."""


class LostProcessError(TrainingError):
    """Another process of this training, or its machine, has ended."""
