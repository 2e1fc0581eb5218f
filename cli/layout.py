"""The data folder of `parley up`: where everything is, and that only one `up` uses it at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class InUse(Exception):
    """Another `parley up` runs on this data folder."""


class Layout:
    """Paths below `--data`. Everything is for its owner's eyes only."""

    def __init__(self, data: Path) -> None:
        self.data = data.absolute()
        self.run = self.data / "run"
        self.logs = self.data / "logs"
        self.secrets = self.data / "secrets"
        self.postgres = self.data / "postgres-18"
        self.nats = self.data / "nats"
        self.redis = self.data / "redis"
        self.lock = self.run / "lock"
        self.ports = self.run / "ports.json"
        self.control = "control.sock"
        self.environment = self.run / "environment.json"
        self.owner = self.run / "owner.json"

    def make(self) -> None:
        """Makes the folders that are missing. Raises `OSError`."""
        for folder in (self.data, self.run, self.logs, self.secrets, self.nats, self.redis):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def spool(self, part: str) -> Path:
        """What this part keeps for itself."""
        folder = self.data / "parts" / part
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def take(self) -> int:
        """Locks the folder for the life of this process: the kernel unlocks it however we end. Raises `InUse`."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise InUse(f"parley is already running on {self.data} (PID {pid}); use another --data") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_private(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; empty where there is none or it is not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
