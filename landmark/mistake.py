"""The one exception that means: the user can mend this."""


class UserMistake(Exception):
    """Input that the user can mend: one line that names the file or key and says what to do.

    The root scripts print the message alone on standard error and end with status 2.
    """
