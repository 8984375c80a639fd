"""Reading the configuration file that a command was given."""

import logging
from typing import TYPE_CHECKING

from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    from pyproxy.config import ProxyConfig

log = logging.getLogger(__name__)


def read_config(path: str | None) -> "ProxyConfig":
    """Read a configuration file, or give the defaults when there is none.

    Fields that have no effect are named once in the log. Raises ConfigError with every fault, each
    naming the file.
    """
    from pathlib import Path

    from pyproxy.config import ProxyConfig, parse_config

    if path is None:
        return ProxyConfig()
    try:
        text = Path(path).read_text(encoding="utf-8")
        config, unused = parse_config(text)
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path}: {getattr(fault, 'strerror', None) or fault}") from fault
    except ConfigError as fault:
        raise ConfigError(*(f"{path}: {text}" for text in fault.faults)) from fault
    for field in unused:
        log.info("%s: %s has no effect here", path, field)
    return config
