"""`parley model`: the local model server, as `parley up` starts it."""

from __future__ import annotations

import argparse
import importlib
import signal
import threading
from pathlib import Path
from typing import Any

from cli.embedded.model import AT_ONCE, CONTEXT, NAME, THREADS, weights


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, required=True, help="where to listen, on 127.0.0.1")
    parser.add_argument("--key-file", type=Path, help="a file with the API key that callers must present")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    llama: Any = importlib.import_module("xllamacpp")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    params = llama.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {NAME}
    params.n_ctx = CONTEXT * AT_ONCE
    params.n_parallel = AT_ONCE
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.warmup = False
    # So small a model wanders off at the usual temperature and repeats itself without a penalty.
    params.sampling.temp = 0.2
    params.sampling.penalty_repeat = 1.1
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    if args.key_file is not None:
        params.api_keys = [args.key_file.read_text(encoding="utf-8").strip()]
    server = llama.Server(params)
    print(f"{NAME} at {server.listening_address}", flush=True)
    stop.wait()
    return 0
