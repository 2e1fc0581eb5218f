from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core import recorder as recording
from core.bus.port import UsageBatch
from core.errors import Unavailable
from core.ledger.port import Entry
from core.recorder import Recorder
from core.spool import Spool
from tests.support.entries import new_entry
from tests.support.polling import eventually

TIMEOUT_S = 0.05
BYTES = 1024 * 1024


class Stream:
    """A usage stream that takes records, or does not; `asked` are the timeouts that it was given."""

    def __init__(self) -> None:
        self.taken: list[Entry] = []
        self.asked: list[float] = []
        self.error: Exception | None = None
        self.refused = 0

    async def publish(self, entry: Entry, timeout_s: float) -> None:
        self.asked.append(timeout_s)
        if self.error is not None:
            self.refused += 1
            raise self.error
        self.taken.append(entry)

    async def pull(self, limit: int, wait_s: float) -> UsageBatch | None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_WAIT_S", "LAST_WAIT_S", "PAUSE_S"):
        monkeypatch.setattr(recording, name, 0.001)


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool[Entry]]:
    opened: Spool[Entry] = await Spool.open(tmp_path, Entry, BYTES)
    yield opened
    await opened.close()


@pytest.fixture
async def recorder(stream: Stream, spool: Spool[Entry]) -> AsyncIterator[Recorder]:
    """Not started."""
    made = Recorder(stream, spool, TIMEOUT_S)
    yield made
    await made.stop()


async def test_the_stream_takes_a_record(recorder: Recorder, stream: Stream) -> None:
    entry = new_entry()
    assert await recorder.record(entry) is True
    assert (stream.taken, stream.asked, recorder.spooled) == ([entry], [TIMEOUT_S], 0)


async def test_without_the_stream_records_wait_on_the_disk_and_come_back_in_order(
    recorder: Recorder, stream: Stream
) -> None:
    stream.error = Unavailable("away")
    entries = [new_entry() for _ in range(5)]
    assert [await recorder.record(entry) for entry in entries] == [False] * 5
    assert recorder.spooled > 0
    await recorder.start()
    await eventually(lambda: stream.refused >= 8, what="the replay is tried again and again")
    assert stream.taken == []
    stream.error = None
    await eventually(lambda: recorder.spooled == 0)
    assert stream.taken == entries


async def test_what_an_earlier_process_left_is_streamed(stream: Stream, tmp_path: Path) -> None:
    entry = new_entry()
    earlier: Spool[Entry] = await Spool.open(tmp_path, Entry, BYTES)
    await earlier.append(entry)
    await earlier.close()
    spool: Spool[Entry] = await Spool.open(tmp_path, Entry, BYTES)
    recorder = Recorder(stream, spool, TIMEOUT_S)
    await recorder.start()
    await eventually(lambda: stream.taken == [entry] and recorder.spooled == 0)
    await recorder.stop()
    await spool.close()


async def test_an_unforeseen_failure_does_not_end_the_replay(recorder: Recorder, stream: Stream) -> None:
    stream.error = Unavailable("away")
    entry = new_entry()
    await recorder.record(entry)
    stream.error = RuntimeError("a mistake")
    await recorder.start()
    await eventually(lambda: stream.refused >= 3)
    stream.error = None
    await eventually(lambda: stream.taken == [entry])


async def test_where_the_disk_takes_nothing_either_both_are_asked_again(
    recorder: Recorder, stream: Stream, spool: Spool[Entry]
) -> None:
    stream.error = Unavailable("away")
    await spool.close()
    with pytest.raises(Unavailable, match="could not be kept"):
        await recorder.record(new_entry())
    assert stream.refused == recording.TRIES

    recorded = asyncio.create_task(recorder.record(new_entry()))
    await eventually(lambda: stream.refused > recording.TRIES)
    stream.error = None
    assert await recorded is True


async def test_stopping_leaves_the_rest_to_the_next_process(
    recorder: Recorder, stream: Stream, spool: Spool[Entry], tmp_path: Path
) -> None:
    stream.error = Unavailable("away")
    await recorder.start()
    entry = new_entry()
    await recorder.record(entry)
    await recorder.stop()
    await recorder.stop()
    await spool.close()
    left: Spool[Entry] = await Spool.open(tmp_path, Entry, BYTES)
    stream.error = None
    assert await left.replay(lambda record: stream.publish(record, TIMEOUT_S)) == 1
    assert stream.taken == [entry]
    await left.close()
