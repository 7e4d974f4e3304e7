"""The one exception for a user's mistake."""


class UserError(Exception):
    """Input that the user can correct: one line that names the file or key and says what to do.

    The commands print the message alone on standard error and exit with status 2.

    Args:
        message: "<what is wrong>. <what to pass or do>." Where a DataLoader worker raises this
            error, PyTorch raises it again with the traceback before the line; it is removed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].strip())
