"""Chromium on the page of a stack: the cases of tests/web/cases.mjs, run one after the other in one browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.owner import prepare
from tests.support.stack import ROOT, Stack

WEB = ROOT / "tests" / "web"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LEAVE_S = 10.0


class Browser:
    """Each case has its own contexts in it, and so nothing of another's session."""

    def __init__(self, program: str, errors: Path) -> None:
        self._errors = errors
        with errors.open("wb") as file:
            self._process = subprocess.Popen(
                ["node", "drive.mjs", program],
                cwd=WEB,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def run(self, stack: Stack, case: str) -> str | None:
        """What went wrong; None where the case holds. A case bounds its time by itself. One that names the link gets a
        new link of the owner's.
        """
        target = {"case": case, "base": stack.base_url, "mock": stack.mock.url}
        if "link" in case:
            target["link"] = asyncio.run(prepare(stack.config, stack.layout, stack.base_url))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(target) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            return f"the browser's driver ended:\n{self._errors.read_text()}"
        failed = json.loads(answer)["failed"]
        return None if failed is None else str(failed)

    def close(self) -> None:
        try:
            self._process.communicate(timeout=LEAVE_S)
        finally:
            self._process.kill()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for the whole run."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, "there is no Chromium: tools/setup browser"
    made = Browser(program, tmp_path_factory.mktemp("browser") / "errors.log")
    yield made
    made.close()
