from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from core import spool as spool_module
from core.errors import Unavailable, Unknown
from core.spool import Spool, SpoolFull

MIB = 1024 * 1024


class Record(msgspec.Struct, frozen=True):
    writer: str
    n: int
    text: str = ""


async def open_spool(folder: Path, max_bytes: int = MIB, timeout_s: float = 5.0) -> Spool[Record]:
    return await Spool.open(folder, Record, max_bytes, timeout_s)


async def drain(spool: Spool[Record]) -> list[Record]:
    found: list[Record] = []

    async def handle(record: Record) -> None:
        found.append(record)

    assert await spool.replay(handle) == len(found)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


async def test_records_come_back_in_order_and_are_gone_once_acknowledged(tmp_path: Path) -> None:
    spool = await open_spool(tmp_path)
    records = [Record("w", n, "x" * n) for n in range(50)]
    for record in records:
        await spool.append(record)
    assert await drain(spool) == records
    assert await drain(spool) == []
    assert spool.size == 0
    assert names(tmp_path) == []
    await spool.append(records[0])
    assert await drain(spool) == records[:1]
    await spool.close()
    await spool.close()
    with pytest.raises(Unavailable, match="closed"):
        await spool.append(records[0])


async def test_appends_that_wait_together_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    real = os.fdatasync

    def counting(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counting)
    spool = await open_spool(tmp_path)
    records = [Record("w", n) for n in range(200)]
    await asyncio.gather(*map(spool.append, records))
    assert await drain(spool) == records
    assert 1 <= syncs <= 3
    await spool.close()


async def test_what_the_handler_refuses_comes_first_the_next_time(tmp_path: Path) -> None:
    spool = await open_spool(tmp_path)
    for n in range(5):
        await spool.append(Record("w", n))
    seen: list[int] = []

    async def fail_at_two(record: Record) -> None:
        if record.n == 2:
            raise ConnectionError("away")
        seen.append(record.n)

    with pytest.raises(ConnectionError):
        await spool.replay(fail_at_two)
    await spool.append(Record("w", 5))
    assert seen == [0, 1]
    assert [record.n for record in await drain(spool)] == [2, 3, 4, 5]
    await spool.close()


async def test_the_next_process_adopts_what_a_closed_one_left_and_nothing_that_is_held(tmp_path: Path) -> None:
    first, second = await open_spool(tmp_path), await open_spool(tmp_path)
    await first.append(Record("first", 0))
    await second.append(Record("second", 0))
    assert [record.writer for record in await drain(second)] == ["second"]
    await first.close()
    third = await open_spool(tmp_path)
    assert third.size > 0
    assert [record.writer for record in await drain(third)] == ["first"]
    await second.close()
    await third.close()
    assert names(tmp_path) == []


async def test_a_full_spool_refuses_and_takes_again_when_drained(tmp_path: Path) -> None:
    spool = await open_spool(tmp_path, max_bytes=300)
    record = Record("w", 0, "x" * 50)
    for _ in range(3):
        await spool.append(record)
    with pytest.raises(SpoolFull, match="of at most 300 bytes"):
        await spool.append(record)
    assert await drain(spool) == [record] * 3
    await spool.append(record)
    await spool.close()


async def test_a_record_has_a_limit(tmp_path: Path) -> None:
    spool = await open_spool(tmp_path, max_bytes=100 * MIB)
    with pytest.raises(ValueError, match="at most"):
        await spool.append(Record("w", 0, "x" * 5 * MIB))
    await spool.close()


async def test_segments_are_bounded_and_replayed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 100)
    spool = await open_spool(tmp_path)
    for n in range(30):
        await spool.append(Record("w", n))
    assert names(tmp_path).count(".log") > 3
    assert [record.n for record in await drain(spool)] == list(range(30))
    assert names(tmp_path) == []
    await spool.close()


async def test_a_torn_end_is_dropped_at_whatever_byte_it_broke(tmp_path: Path) -> None:
    spool = await open_spool(tmp_path)
    ends = [0]
    for n in range(4):
        await spool.append(Record("w", n, "text"))
        ends.append(spool.size)
    await spool.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    assert len(whole) == ends[-1]
    for cut in range(len(whole)):
        for rest in (b"", bytes(len(whole) - cut)):
            folder = tmp_path / f"{cut}-{len(rest)}"
            folder.mkdir()
            (folder / "0.log").write_bytes(whole[:cut] + rest)
            reopened = await open_spool(folder)
            found = await drain(reopened)
            await reopened.close()
            complete = sum(end <= cut for end in ends[1:])
            assert [record.n for record in found[:complete]] == list(range(complete))
            assert len(found) == complete


async def test_damage_is_kept_aside_and_costs_only_what_it_hit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = await open_spool(tmp_path)
    for n in range(3):
        await spool.append(Record("w", n))
    await spool.close()
    (path,) = segments(tmp_path)
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 0xFF
    path.write_bytes(blob)
    foreign = msgspec.msgpack.encode({"something": "else"})
    header = len(foreign).to_bytes(4, "little") + zlib.crc32(foreign).to_bytes(4, "little")
    (tmp_path / "9.log").write_bytes(header + foreign)
    spool = await open_spool(tmp_path)
    assert [record.n for record in await drain(spool)] == [0, 1]
    assert names(tmp_path) == [".damaged", ".damaged"]
    assert "unreadable" in caplog.text
    assert await drain(spool) == []
    await spool.close()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_failing_write_is_told_and_leaves_no_trace(tmp_path: Path) -> None:
    spool = await open_spool(tmp_path)
    await spool.append(Record("w", 0))
    size = spool.size
    with file_size_limit(size + 20), pytest.raises(Unavailable, match="cannot write"):
        await spool.append(Record("w", 1, "x" * 100))
    assert spool.size == size
    await spool.append(Record("w", 2))
    assert [record.n for record in await drain(spool)] == [0, 2]
    await spool.close()


async def test_after_a_failed_sync_another_segment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await open_spool(tmp_path)
    await spool.append(Record("w", 0))

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(Unknown, match="cannot sync"):
            await spool.append(Record("w", 1))
    await spool.append(Record("w", 2))
    assert names(tmp_path) == [".log", ".log"]
    assert [record.n for record in await drain(spool)] == [0, 2]
    await spool.close()


async def test_a_disk_that_hangs_is_waited_for_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(os, "fdatasync", lambda fd: os.read(reading, 1))
    spool = await open_spool(tmp_path, timeout_s=0.05)
    with pytest.raises(Unknown, match="did not answer"):
        await spool.append(Record("w", 0))
    os.write(writing, b"..")
    assert [record.n for record in await drain(spool)] == [0]
    await spool.close()
    os.close(reading)
    os.close(writing)


WRITER = """
import asyncio, sys
from pathlib import Path
from core.spool import Spool
from core import spool
spool.SEGMENT_BYTES = 4096

async def write(store, writer):
    n = 0
    while True:
        await store.append({"writer": writer, "n": n, "text": "x" * (n % 97)})
        print(writer, n, flush=True)
        n += 1

async def main():
    store = await Spool.open(Path(sys.argv[1]), dict, 10**9)
    await asyncio.gather(*(write(store, str(w)) for w in range(4)))

asyncio.run(main())
"""


def write_and_kill(folder: Path, acknowledged: int) -> set[tuple[str, int]]:
    """Runs the writer, kills it after so many acknowledgements and returns all that it told of."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [next(writer.stdout) for _ in range(acknowledged)]
        writer.kill()
        # A torn last line: its append had returned, but nobody was told.
        lines += [line for line in writer.stdout if line.endswith("\n")]
    return {(name, int(n)) for name, n in map(str.split, lines)}


@pytest.mark.parametrize("acknowledged", [1, 57, 400])
async def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    told = write_and_kill(tmp_path, acknowledged)
    spool = await open_spool(tmp_path, 10 * MIB)
    found = [(record.writer, record.n) for record in await drain(spool)]
    await spool.close()
    assert told <= set(found)
    for name in {name for name, _ in found}:
        numbers = [n for writer, n in found if writer == name]
        assert numbers == list(range(len(numbers)))
    assert names(tmp_path) == []
