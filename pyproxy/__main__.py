"""`python -m pyproxy` and the `pyproxy` command."""

import sys

from pyproxy.cli import run


def main() -> int:
    """Run the command line; return its exit status."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
