"""How our processes log: to stderr, one line each, with time, level and where it comes from."""

from __future__ import annotations

import logging
import time

from core.config import ConfigError


def configure(level: str) -> None:
    """Raises `ConfigError` for a level that does not exist."""
    if level.upper() not in logging.getLevelNamesMapping():
        raise ConfigError(f"log_level is {level!r}; it can be debug, info, warning, error or critical")
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
