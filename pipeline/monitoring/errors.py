"""Expected errors of monitoring."""


class MonitorError(Exception):
    """There is nothing to monitor, or to compare with; the message says why and what to do."""
