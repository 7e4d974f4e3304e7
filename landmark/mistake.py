"""The one exception that means: the user can mend this."""


class UserMistake(Exception):
    """Input that the user can mend: one line that names the file or key and says what to do.

    The root scripts print the message alone on standard error and end with status 2.

    Args:
        message: the line. A DataLoader raises the mistake of a worker anew with the worker's
            traceback before the line, which is taken off.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.UserMistake: ")[2].strip())
