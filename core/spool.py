"""A local spool: records that must survive this process, on disk before `append` returns, replayed until acknowledged.

A folder may be shared by processes. Each writes segments of its own, files that it holds locked; a segment whose lock
is free belongs to a process that died, and whoever replays next adopts it. A segment is removed when all of its
records were acknowledged.

A record is a header (length and CRC-32 of what follows, four bytes each, little-endian) and MessagePack. What a crash
tore off at the end was never acknowledged to its writer, and is dropped.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from core.errors import Unavailable, Unknown

SEGMENT_BYTES: Final = 4 * 1024 * 1024
MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
STALE_DRAFT_S: Final = 60.0

_HEADER: Final = struct.Struct("<II")
_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class SpoolFull(Unavailable):
    """The spool holds as many bytes as it may; nothing was stored."""


class _Segment:
    """A locked file. `size`: bytes of whole records on disk; `done`: how far they were acknowledged."""

    __slots__ = ("damaged", "done", "fd", "path", "size")

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.done = 0
        self.damaged = False


class Spool(Generic[T]):
    """Records of one type, appended by many tasks and replayed by one at a time; made by `Spool.open`.

    Ordering: one process's records come back in order of their appends; between processes there is no order.
    Delivery: at least once; after a crash records of a segment may be handed out again, so handling is idempotent.
    """

    def __init__(self, folder: Path, kind: Any, max_bytes: int, timeout_s: float) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        # One thread: what it does to the files needs no lock, and a hanging disk holds up nobody else.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._active: _Segment | None = None
        self._sealed: list[_Segment] = []
        self._bytes = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._replaying = asyncio.Lock()
        self._closed = False
        self._released = False

    @classmethod
    async def open(cls, folder: Path, kind: Any, max_bytes: int, timeout_s: float = 5.0) -> Spool[T]:
        """A spool in `folder` (made if need be) for records of `kind`, holding at most `max_bytes`.

        What dead processes left is adopted at once. `timeout_s` bounds the wait of an append. Raises OSError.
        """
        spool: Spool[T] = cls(folder, kind, max_bytes, timeout_s)
        await spool._run(spool._prepare)
        spool._bytes += await spool._run(spool._adopt)
        return spool

    @property
    def size(self) -> int:
        """Bytes that are stored or about to be, adopted segments included."""
        return self._bytes

    async def append(self, record: T) -> None:
        """Stores a record; on disk when it returns. Appends that wait together share one sync.

        Raises `SpoolFull` or another `Unavailable` (nothing stored), `Unknown` (the disk did not answer in time, or
        failed while syncing), ValueError (over 4 MiB).
        """
        body = self._encoder.encode(record)
        if len(body) > MAX_RECORD_BYTES:
            raise ValueError(f"a record has at most {MAX_RECORD_BYTES} bytes, not {len(body)}")
        if self._closed:
            raise Unavailable("the spool is closed")
        frame = _HEADER.pack(len(body), zlib.crc32(body)) + body
        if self._bytes + len(frame) > self._max_bytes:
            raise SpoolFull(f"the spool in {self._folder} holds {self._bytes} of at most {self._max_bytes} bytes")
        self._bytes += len(frame)
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((frame, stored))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        try:
            async with asyncio.timeout(self._timeout_s):
                await stored
        except TimeoutError as error:
            raise Unknown(f"the disk of {self._folder} did not answer within {self._timeout_s:g} s") from error

    async def replay(self, handle: Callable[[T], Awaitable[None]]) -> int:
        """Hands every stored record to `handle`, oldest first; one that it returns from is acknowledged.

        Returns how many were. What `handle` raises ends the replay; that record comes first the next time. Records
        that cannot be read are kept in a file `*.damaged`, with a line in the log.
        """
        async with self._replaying:
            await self._run(self._seal)
            self._bytes += await self._run(self._adopt)
            count = 0
            while self._sealed:
                segment = self._sealed[0]
                for end, body in await self._run(self._read, segment):
                    try:
                        record = self._decoder.decode(body)
                    except (msgspec.DecodeError, msgspec.ValidationError):
                        segment.damaged = True
                    else:
                        await handle(record)
                        count += 1
                    segment.done = end
                await self._run(self._remove, segment)
                self._sealed.remove(segment)
                self._bytes -= segment.size
            return count

    async def close(self) -> None:
        """Waits for appends under way (within `timeout_s`), then leaves the files to whoever opens the folder next.

        Idempotent. Not while a replay runs: cancel that first.
        """
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher], timeout=self._timeout_s)
        if self._released:
            return
        self._released = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._run(self._release)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., R], *args: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            blob = b"".join(frame for frame, _ in batch)
            failure: Unavailable | Unknown | None = None
            try:
                await self._run(self._store, blob)
            except (Unavailable, Unknown) as error:
                failure = error
                self._bytes -= len(blob)
            for _, stored in batch:
                if stored.done():
                    continue
                if failure is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(type(failure)(str(failure)))

    # What follows runs in the thread.

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for draft in self._folder.glob("*.new"):
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > STALE_DRAFT_S:
                    draft.unlink()

    def _store(self, blob: bytes) -> None:
        try:
            segment = self._active = self._active or self._create()
            _write_at(segment.fd, blob, segment.size)
        except OSError as error:
            self._give_up_tail()
            raise Unavailable(f"cannot write to the spool in {self._folder}: {error.strerror}") from error
        try:
            os.fdatasync(segment.fd)
        except OSError as error:
            # After a failed sync nobody knows what is on the disk, not even a second sync: write elsewhere.
            self._seal()
            raise Unknown(f"cannot sync the spool in {self._folder}: {error.strerror}") from error
        segment.size += len(blob)
        if segment.size >= SEGMENT_BYTES:
            self._seal()

    def _create(self) -> _Segment:
        name = f"{time.time_ns() // 1000:017}-{secrets.token_hex(4)}"
        # It gets its final name only under its lock: whoever finds it unlocked may adopt it.
        draft, path = self._folder / f"{name}.new", self._folder / f"{name}.log"
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
            _sync_folder(self._folder)
        except OSError:
            os.close(fd)
            raise
        return _Segment(path, fd, 0)

    def _give_up_tail(self) -> None:
        segment = self._active
        if segment is None:
            return
        try:
            os.ftruncate(segment.fd, segment.size)
        except OSError:
            self._seal()

    def _seal(self) -> None:
        if self._active is not None:
            self._sealed.append(self._active)
            self._active = None

    def _adopt(self) -> int:
        mine = {segment.path for segment in self._sealed}
        if self._active is not None:
            mine.add(self._active.path)
        adopted = [_take(path) for path in sorted(self._folder.glob("*.log")) if path not in mine]
        found = [segment for segment in adopted if segment is not None]
        self._sealed.extend(found)
        return sum(segment.size for segment in found)

    def _read(self, segment: _Segment) -> list[tuple[int, bytes]]:
        blob = os.pread(segment.fd, segment.size, 0)
        found = [(end, body) for end, body in _records(blob) if end > segment.done]
        whole = found[-1][0] if found else segment.done
        segment.damaged = segment.damaged or _is_damaged(blob[whole:])
        return found

    def _remove(self, segment: _Segment) -> None:
        if segment.damaged:
            kept = segment.path.with_suffix(".damaged")
            segment.path.rename(kept)
            _log.error("the spool has unreadable records; they are kept in %s", kept)
        else:
            segment.path.unlink()
        os.close(segment.fd)
        _sync_folder(self._folder)

    def _release(self) -> None:
        self._seal()
        for segment in self._sealed:
            os.close(segment.fd)
        self._sealed.clear()


def _records(blob: bytes) -> Iterator[tuple[int, bytes]]:
    """(end, body) of every whole record from the start."""
    at = 0
    while at + _HEADER.size <= len(blob):
        length, checksum = _HEADER.unpack_from(blob, at)
        end = at + _HEADER.size + length
        body = blob[at + _HEADER.size : end]
        if length == 0 or end > len(blob) or zlib.crc32(body) != checksum:
            return
        yield end, body
        at = end


def _is_damaged(rest: bytes) -> bool:
    """Whether what follows the whole records is more than a torn end: a record that is all there, but not as it was."""
    if len(rest) < _HEADER.size:
        return False
    length: int = _HEADER.unpack_from(rest)[0]
    return 0 < length <= len(rest) - _HEADER.size


def _take(path: Path) -> _Segment | None:
    """Locks a segment that nobody holds."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    status = os.fstat(fd)
    if status.st_nlink == 0:
        os.close(fd)
        return None
    return _Segment(path, fd, status.st_size)


def _write_at(fd: int, blob: bytes, offset: int) -> None:
    view = memoryview(blob)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
