"""The one exception that a person's mistake raises."""


class UserError(ValueError):
    """Something the person at the keyboard can mend: the message says what is wrong and what to do.

    Commands print it as one line, without a traceback, and exit with status 1.
    """
