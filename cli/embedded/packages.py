"""Finding programs and files inside installed packages without importing these."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path


class Missing(Exception):
    """Something that the embedded stack needs is not installed; the message says what to install."""


def folder(package: str, distribution: str) -> Path:
    """Where a package is installed. Raises `Missing`."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise Missing(f"{distribution} is not installed: pip install {distribution}")
    return Path(found.submodule_search_locations[0])


def script(name: str, distribution: str) -> Path:
    """A program that a package has put beside the interpreter, or that is on the path. Raises `Missing`."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    if found is None:
        raise Missing(f"the program {name} is missing: pip install {distribution}")
    return Path(found)
