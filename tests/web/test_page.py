"""The page in Chromium against the whole stack; the cases are those of cases.mjs."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.support.browser import WEB, Browser
from tests.support.stack import Stack

CASES = re.findall(r'^  async "([^"]+)"\(', (WEB / "cases.mjs").read_text(), re.MULTILINE)

pytestmark = pytest.mark.slow


def test_all_cases_are_run() -> None:
    listed = subprocess.run(["node", "drive.mjs"], cwd=WEB, capture_output=True, text=True, check=True)
    assert json.loads(listed.stdout) == CASES
    assert len(CASES) > 10


@pytest.mark.parametrize("case", CASES)
def test_page(stack: Stack, browser: Browser, case: str) -> None:
    failed = browser.run(stack, case)
    assert failed is None, failed
