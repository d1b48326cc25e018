"""The one exception that means 'the user asked for something that cannot be done'."""


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """
