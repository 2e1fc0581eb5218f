"""`parley chat`: ask from the terminal. Ctrl-C stops the answer; a second one leaves."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from cli.chat_answer import Answer, Out
from cli.chat_client import ChatError, Client
from cli.control import add_data
from cli.layout import Layout, read_json
from cli.ports import base_url
from core.config import load

INTERRUPTED = 130


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", help="one question; without it, a conversation")
    add_data(parser)
    parser.add_argument("--url", help="another server, such as https://chat.example.org")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="an API key or access token for --url")
    parser.add_argument("--token", help="the same on the command line, where others on this machine can see it")
    parser.add_argument("--model", help="which model")


def run(args: argparse.Namespace) -> int:
    try:
        url, token = _credential(args)
        with asyncio.Runner() as runner:
            return runner.run(_one(url, token, args)) if args.question else _conversation(runner, url, token, args)
    except ChatError as error:
        print(f"parley: {error}", file=sys.stderr)
        return 1


def _credential(args: argparse.Namespace) -> tuple[str, str]:
    """Where to connect and as whom: what was given, else the owner of the stack that runs here."""
    token = args.token_file.read_text(encoding="utf-8").strip() if args.token_file else args.token
    layout = Layout(args.data)
    owner = read_json(layout.owner)
    if args.url and not token:
        raise ChatError("--url needs --token-file (or --token)")
    if not args.url and not layout.environment.exists():
        raise ChatError(f"there is no stack in {layout.data}: start one with `parley up`, or give --url")
    if not args.url:
        gateway = load(environ=read_json(layout.environment)).gateway
        return base_url(gateway.host, gateway.port), token or owner.get("key", "")
    return args.url, token


def _say(out: Out) -> None:
    if out.remark:
        print(f"\n[{out.remark}]", file=sys.stderr, flush=True)
    if out.text:
        sys.stdout.write(out.text)
        sys.stdout.flush()


async def _one(url: str, token: str, args: argparse.Namespace) -> int:
    async with Client(url, token, _say) as client:
        conversation = await client.create_conversation()
        answer = await _ask(client, conversation, args.question, None, args.model)
    return _status(answer)


def _conversation(runner: asyncio.Runner, url: str, token: str, args: argparse.Namespace) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editing
    client = runner.run(Client(url, token, _say).__aenter__())
    try:
        conversation = runner.run(client.create_conversation())
        parent: str | None = None
        while True:
            try:
                question = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return 0
            if not question:
                continue
            answer = runner.run(_ask(client, conversation, question, parent, args.model))
            if answer is None:
                return INTERRUPTED
            parent = answer.generation_id or parent
    finally:
        runner.run(client.__aexit__())


async def _ask(
    client: Client, conversation: str, question: str, parent: str | None, model: str | None
) -> Answer | None:
    """The answer, followed to its end; None where the user left before it."""
    work = asyncio.create_task(client.ask(conversation, question, parent, model))
    presses = 0

    def interrupted() -> None:
        nonlocal presses
        presses += 1
        client.cancel() if presses == 1 else work.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        answer = await work
    except asyncio.CancelledError:
        if presses < 2:
            raise
        return None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        print(flush=True)
    return answer


def _status(answer: Answer | None) -> int:
    if answer is None or answer.outcome == "cancelled":
        return INTERRUPTED
    return 0 if answer.outcome == "done" else 1
