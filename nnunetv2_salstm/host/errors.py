"""The error that the command line reports in one line."""


class SalstmError(Exception):
    """Something the user can put right; the message says what is wrong and what to do next."""
