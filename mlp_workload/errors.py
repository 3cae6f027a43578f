"""The one kind of failure that a user can mend."""


class UserError(Exception):
    """Something that the person at the terminal can put right, said in one line.

    Every command prints the message without a traceback and ends with exit status 2.
    """
