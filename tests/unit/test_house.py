"""The house rules that can be checked: size of files, layers, the environment, locks, kernels, sleeps in tests."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from core import errors

ROOT = Path(__file__).parents[2]
LAYERS = ("cli", "gateway", "workers", "core", "ext")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_OURS = {"node_modules", "dist", "build", "__pycache__"}
CODE = {".py", ".pyi", ".pyx", ".pxd", ".ts", ".tsx", ".css", ".mjs", ".sql", ".lua"}
MOST_LINES = 500


def _files(*folders: str, suffixes: set[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file() and not NOT_OURS & set(path.parts):
                yield path


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _pins(lock: str) -> dict[str, str]:
    """Package → version of requirements/<lock>."""
    text = (ROOT / "requirements" / lock).read_text()
    return dict(re.findall(r"^([a-z0-9._\[\],-]+)==([^ ;\\]+)", text, re.MULTILINE | re.IGNORECASE))


# --- size ---------------------------------------------------------------------------------------------------------


def test_no_file_is_long() -> None:
    code = _files(*LAYERS, "web", "tests", "benchmarks", "tools", suffixes=CODE | {""})
    lengths = {_name(path): len(path.read_text().splitlines()) for path in code}
    assert len(lengths) > 50
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


# --- layers: import-linter has the contracts; here is what it cannot see ------------------------------------------


def test_every_port_is_in_the_contract_about_adapters() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    protected = next(contract["protected_modules"] for contract in contracts if contract["type"] == "protected")
    ports = {f"core.{path.parent.name}.*" for path in (ROOT / "core").glob("*/port.py")}
    assert ports
    assert ports <= set(protected)


def test_kernels_import_nothing_of_ours_but_ext() -> None:
    imported = {
        (path.name, module)
        for path in _files("ext", suffixes={".pyx", ".pxd", ".pyi"})
        for module in re.findall(r"^\s*(?:from|c?import)\s+(\w+)", path.read_text(), re.MULTILINE)
    }
    assert {(file, module) for file, module in imported if module in {*LAYERS, "tests"} - {"ext"}} == set()


def _reads_environment(tree: ast.Module) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names}:
            return True
    return False


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("import os; os.environ['HOME']", True),
        ("import os; os.getenv('HOME')", True),
        ("from os import environ", True),
        ("import os as system; system.environ", True),
        ("import os; os.getpid()", False),
        ("from core.config import environment", False),
    ],
)
def test_reading_the_environment_is_seen(source: str, reads: bool) -> None:
    assert _reads_environment(ast.parse(source)) is reads


def test_only_core_config_reads_the_environment() -> None:
    readers = [_name(path) for path in _files(*LAYERS, suffixes={".py"}) if _reads_environment(_parse(path))]
    assert readers == ["core/config.py"]


def test_every_port_states_its_contract() -> None:
    """Ordering, idempotency, cancellation, errors: a port says something about each."""
    words = {"order", "idempot", "cancel", "error"}
    silent = {
        _name(path): missing
        for path in (ROOT / "core").glob("*/port.py")
        if (missing := {word for word in words if word not in path.read_text().lower()})
    }
    assert silent == {}


# --- kernels ------------------------------------------------------------------------------------------------------


def test_every_kernel_has_types_and_a_reference() -> None:
    """The reference of ext/<family>_<part>.pyx may be one for the family: ext/<family>_reference.py."""
    families = {path.name.removesuffix("_reference.py") for path in (ROOT / "ext").glob("*_reference.py")}
    for kernel in (ROOT / "ext").glob("*.pyx"):
        assert kernel.with_suffix(".pyi").is_file(), f"{kernel.name} has no .pyi"
        assert any(kernel.stem == f or kernel.stem.startswith(f"{f}_") for f in families), (
            f"{kernel.name}: no reference"
        )


# --- packages and locks -------------------------------------------------------------------------------------------


def test_every_dependency_has_a_reason_beside_it() -> None:
    lists = chain(
        [PROJECT["project"]["dependencies"]],
        PROJECT["project"]["optional-dependencies"].values(),
        PROJECT["dependency-groups"].values(),
    )
    wanted = [entry for entries in lists for entry in entries if isinstance(entry, str)]
    text = (ROOT / "pyproject.toml").read_text()
    assert len(wanted) > 20
    without = [entry for entry in wanted if not re.search(rf'^    "{re.escape(entry)}", +# \S+', text, re.MULTILINE)]
    assert without == []


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
def test_locks_are_complete_and_name_no_registry(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "a lock holds packages only, no options"
    packages = re.split(r"\n(?=\S)", text.strip())
    assert [package for package in packages if "==" not in package or "--hash=sha256:" not in package] == []


@pytest.mark.parametrize(
    ("whole", "part"), [("dev.txt", "embedded.txt"), ("embedded.txt", "base.txt"), ("dev.txt", "build.txt")]
)
def test_the_locks_agree(whole: str, part: str) -> None:
    assert _pins(part).items() <= _pins(whole).items()


def test_the_locks_hold_what_the_project_asks_for() -> None:
    def names(entries: list[object]) -> set[str]:
        return {re.split(r"[\[<>=~!; ]", entry)[0] for entry in entries if isinstance(entry, str)}

    groups = PROJECT["dependency-groups"]
    assert names(PROJECT["project"]["dependencies"]) <= set(_plain(_pins("base.txt")))
    assert names(PROJECT["project"]["optional-dependencies"]["embedded"]) <= set(_pins("embedded.txt"))
    for group, lock in [("dev", "dev.txt"), ("build", "build.txt"), ("weights", "weights.txt"), ("node", "node.txt")]:
        assert names(groups[group]) <= set(_pins(lock))


def _plain(names: dict[str, str]) -> list[str]:
    """Names without extras: "redis[hiredis]" → "redis"."""
    return [name.split("[")[0] for name in names]


def test_npm_locks_are_complete_and_name_no_registry() -> None:
    locks = [path for path in _files("web", "tests", suffixes={".json"}) if path.name == "package-lock.json"]
    assert locks
    for lock in locks:
        packages = json.loads(lock.read_text())["packages"]
        assert [name for name, package in packages.items() if "resolved" in package] == []
        assert [name for name, package in packages.items() if name and "integrity" not in package] == []
        optional = {name for package in packages.values() for name in package.get("optionalDependencies", ())}
        missing = [name for name in optional if not any(key.endswith(f"node_modules/{name}") for key in packages)]
        assert missing == [], f"`npm ci` refuses {_name(lock)}: it lacks packages of other platforms"


def test_what_is_not_python_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    built = {".py", ".pyx", ".pxd", ".c", ".so", ".html"}
    for folder in LAYERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in built and "__pycache__" not in path.parts:
                assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), _name(path)


# --- documentation ------------------------------------------------------------------------------------------------


def test_the_protocol_page_has_the_table_of_errors() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (\d{4})? ?\| (yes|no) \| \S.* \|$", _doc("protocol.md"), re.M)
    told = {(code, int(status), int(close) if close else None, retry == "yes") for code, status, close, retry in rows}
    assert told == {(kind.code, kind.status, kind.close, kind.retryable) for kind in errors.TABLE.values()}


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "turns.md", "protocol.md"])
def test_files_that_the_documentation_names_exist(page: str) -> None:
    named = set(re.findall(r"`((?:cli|gateway|workers|core|ext|tests|web|docs)/[\w./-]+)`", _doc(page)))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def _doc(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


# --- make ---------------------------------------------------------------------------------------------------------


def test_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert declared
    assert set(re.findall(r"^([a-z]+):.* ## .+", makefile, re.MULTILINE)) == set(declared[1].split())


# --- tests --------------------------------------------------------------------------------------------------------


def _sleeps(source: str) -> list[int]:
    """Lines that sleep and do not say beside it why time itself is under test. `sleep(0)` only lets others run."""
    lines = source.splitlines()
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep", "anyio.sleep", "sleep"}
        and [ast.unparse(arg) for arg in node.args] != ["0"]
        and not ("asyncio" in ast.unparse(node.func) and "  # " in lines[node.lineno - 1])
    ]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("time.sleep(1)  # a while", [1]),
        ("pass\nasyncio.sleep(0.1)", [2]),
        ("asyncio.sleep(0)", []),
        ("asyncio.sleep(0.3)  # the consumer's own time, longer than the deadline", []),
    ],
)
def test_sleeping_is_seen(source: str, lines: list[int]) -> None:
    assert _sleeps(source) == lines


def test_tests_do_not_sleep_to_wait() -> None:
    """They wait for events, or by tests/support/polling.py; who may sleep is a poller, a provider or virtual time."""
    may_sleep = {"support", "mockllm", "simulation"}
    sleepers = {
        _name(path): lines
        for path in _files("tests", suffixes={".py"})
        if path.relative_to(ROOT / "tests").parts[0] not in may_sleep and (lines := _sleeps(path.read_text()))
    }
    assert sleepers == {}


def test_test_folders_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
