"""The errors of pyproxy, by what the caller can do about them.

Libraries' errors are translated where they are caught first (`raise ... from`); nothing above that
edge sees them. A normal outcome (no endpoint, a refused connection) is a value, not an error.
"""


class PyproxyError(Exception):
    """Base of all errors that pyproxy raises on purpose. Its text is one line for a person."""


class ConfigError(PyproxyError):
    """A command line, a settings file or a manifest that cannot be used: mend it and start again.

    `faults` holds every fault found, so that one run reports them all.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class DecodeError(PyproxyError):
    """One API object that cannot be understood: drop that object, count it, and go on."""


class ApiError(PyproxyError):
    """The API server answered with an error, or could not be reached.

    status: the HTTP status, or 0 when there was no answer.
    retry_after_s: seconds the server asked to wait, or None.
    """

    def __init__(
        self, message: str, *, status: int = 0, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class ProtocolError(PyproxyError):
    """A peer's bytes do not follow the protocol spoken with it: give up that connection."""
