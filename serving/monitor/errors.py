"""Expected errors of monitoring."""


class WindowError(Exception):
    """The log has no window of this version that can be tested; the message says why and what to do."""
