"""The page's own unit tests, and what it weighs."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
DIST = WEB / "dist"
MOST_SCRIPT_BYTES = 60 * 1024


def test_units() -> None:
    run = subprocess.run(["npm", "test", "--silent"], cwd=WEB, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_scripts_stay_small() -> None:
    scripts = list(DIST.glob("assets/*.js"))
    assert scripts, "the page is not built: tools/setup page"
    assert sum(len(gzip.compress(path.read_bytes())) for path in scripts) < MOST_SCRIPT_BYTES


def test_nothing_stands_inline_and_names_change_with_content() -> None:
    page = (DIST / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page) == []
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert re.fullmatch(r"/assets/[\w-]+-[\w-]{8}\.\w+", address), address
