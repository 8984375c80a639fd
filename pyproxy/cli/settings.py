"""Reading the configuration file that a command was given."""

import logging
from typing import TYPE_CHECKING

from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    from pyproxy.config import Configuration, ProxyConfig

log = logging.getLogger(__name__)


def read_configuration(path: str | None) -> "Configuration":
    """Read a configuration file, or give the defaults when there is none.

    Fields that have no effect are named once in the log. Raises ConfigError with every fault, each
    naming the file.
    """
    from pyproxy.config import Configuration

    if path is None:
        return Configuration()
    configuration, unused = parse_file(path)
    for line in unused:
        log.info("%s: %s", path, line)
    return configuration


def read_config(path: str | None) -> "ProxyConfig":
    """Read what the decisions depend on; the same otherwise."""
    return read_configuration(path).proxy


def parse_file(path: str) -> "tuple[Configuration, tuple[str, ...]]":
    """Read and parse a file; return a line for each field without effect too.

    Raises ConfigError with every fault, each naming the file.
    """
    from pathlib import Path

    from pyproxy.config import parse_config

    try:
        return parse_config(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path}: {getattr(fault, 'strerror', None) or fault}") from fault
    except ConfigError as fault:
        raise ConfigError(*(f"{path}: {text}" for text in fault.faults)) from fault
