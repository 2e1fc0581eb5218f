# cython: language_level=3
"""What the connections of one listener share, and how one of them writes: once per turn of the loop."""

from inspect import iscoroutine
from weakref import WeakKeyDictionary

from cpython.bytearray cimport PyByteArray_AS_STRING

from ext.ws_frames cimport FrameParser
from ext.ws_types import READ_BYTES
from ext.ws_wheel cimport Timer, Wheel

cdef extern from "<sys/socket.h>" nogil:
    struct linger:
        int l_onoff
        int l_linger
    int SOL_SOCKET
    int SO_LINGER
    int setsockopt(int socket, int level, int option, const void* value, unsigned int size)

# A turn of the wheel that comes later than this finds bytes in the kernel that should be read first.
cdef double STALL_S = 1.0
# For so long after a stall, what a peer sent during it, of so many seconds at most, is not taken for a burst.
cdef double FORGIVING_S = 5.0
cdef double FORGIVEN_S = 30.0
cdef double GOLDEN = 0.6180339887498949

# Reading and handling what was read are one uninterrupted step of a loop: one buffer serves all its listeners.
read_buffers = WeakKeyDictionary()


cdef class Shared:
    """State of one listener: its limits, clock and wheel, the accept callback, what is to be flushed this turn."""

    def __init__(self, loop, accept, limits, on_empty, door=None):
        self.loop = loop
        self.clock = loop.time
        self.accept = accept
        self.on_empty = on_empty
        self.door = door
        self.limits = limits
        shortest = min(limits.handshake_s, limits.ping_s, limits.pong_s, limits.close_s, limits.stuck_s)
        # Fine, because what is due in one tick is pinged at once: with 18,000 connections 36 of them instead of 180.
        self.wheel = Wheel(min(0.05, max(0.005, shortest / 10)), loop.time())
        self.spare = FrameParser(limits.message_bytes, limits.fragments)
        self.dirty = []
        self.tasks = set()
        self.read_buffer = read_buffers.setdefault(loop, bytearray(READ_BYTES))
        self.read_view = memoryview(self.read_buffer)
        self.read_data = <unsigned char*>PyByteArray_AS_STRING(self.read_buffer)
        self.last_turn = loop.time()
        self.ping_s = limits.ping_s
        self.pong_s = limits.pong_s
        self.close_s = limits.close_s
        self.message_s = limits.message_s
        self.stuck_s = limits.stuck_s
        # What a frame and a byte take of the rates' time, and how far ahead of it a peer may be.
        self.frame_s = 1 / limits.frames_per_s if limits.frames_per_s else 0
        self.frames_slack = limits.frames_at_once * self.frame_s
        self.byte_s = 1 / limits.bytes_per_s if limits.bytes_per_s else 0
        self.bytes_slack = limits.bytes_at_once * self.byte_s
        self.write_high = limits.write_high
        self.write_max = limits.write_max

    cdef double now(self) except -1:
        return self.clock()

    cdef double spread(self) except -1:
        # From 0 to 1: each call's is far from those of the calls before it.
        self.phase = (self.phase + GOLDEN) % 1.0
        return self.phase

    cdef double metered_from(self, double now) except -1:
        # The time at which what is read now may have come at the earliest: this one, but for a stall of ours.
        if now - self.last_turn > self.wheel.tick_s + STALL_S:
            return max(self.last_turn, now - FORGIVEN_S)
        return self.unread_since if now < self.forgiving_until else now

    cdef int entered(self) except -1:
        # Count a TCP connection; the wheel turns while there are any.
        self.connections += 1
        if self.tick is None:
            self.last_turn = self.now()
            self.tick = self.loop.call_later(self.wheel.tick_s, self.turn)
        return 0

    cdef int left(self) except -1:
        self.connections -= 1
        if self.connections == 0:
            self.on_empty()
        return 0

    def turn(self):
        """Advance the wheel; called by the loop."""
        cdef double now = self.now()
        cdef bint stalled = now - self.last_turn > self.wheel.tick_s + STALL_S
        if stalled:
            self.unread_since = self.metered_from(now)
            self.forgiving_until = now + FORGIVING_S
        self.last_turn = now
        self.tick = None
        if self.connections:
            self.tick = self.loop.call_later(self.wheel.tick_s, self.turn)
        # After a stall the peers' pongs may wait in the kernel: the loop reads them before anyone is judged.
        self.stalled = stalled and not self.stalled
        if not self.stalled:
            self.wheel.advance(now)

    cdef int flush_soon(self, Writer writer) except -1:
        self.dirty.append(writer)
        if len(self.dirty) == 1:
            self.loop.call_soon(self.flush_all)
        return 0

    def flush_all(self):
        """Write what connections queued in this turn of the loop, one write each."""
        cdef list dirty = self.dirty
        cdef Writer writer
        self.dirty = []
        for writer in dirty:
            writer.dirty = False
            writer.flush()

    def start(self, coroutine, waiting):
        """Run the task of an accept callback that waits; it is kept until it ends."""
        self.authorising += 1
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.ended)
        if iscoroutine(waiting):
            # Cancelled before its first step it has awaited nothing, and nobody else will.
            task.add_done_callback(lambda done: waiting.close())
        return task

    def ended(self, task):
        """Called when an accept callback's task is done, however it ended."""
        self.authorising -= 1
        self.tasks.discard(task)


cdef class Writer(Timer):
    """The outbound half of a connection."""

    cdef int queue(self, bytes data) except -1:
        if self.out is None:
            self.out = data
        elif type(self.out) is bytes:
            self.out = [self.out, data]
        else:
            (<list>self.out).append(data)
        self.out_bytes += len(data)
        if self.out_bytes >= self.shared.write_high:
            return self.flush()
        if not self.dirty:
            self.dirty = True
            self.shared.flush_soon(self)
        return 0

    cdef int flush(self) except -1:
        cdef object data = self.out
        if data is None or self.transport is None:
            return 0
        self.out = None
        self.out_bytes = 0
        try:
            self.transport.write(data if type(data) is bytes else b"".join(data))
            if self.write_paused and self.transport.get_write_buffer_size() > self.shared.write_max:
                self.overflowed()
        except Exception:
            # The transport is closing; connection_lost follows or is on its way.
            self.drop()
        return 0

    cdef int overflowed(self) except -1:
        # More waits than the limits allow.
        return self.drop()

    cdef int drop(self) except -1:
        # End the TCP connection now, with a reset: after a plain close the kernel would keep what is unsent for as long
        # as the peer likes to read nothing.
        cdef linger now
        if self.transport is not None:
            now.l_onoff = 1
            now.l_linger = 0
            setsockopt(self.transport.get_extra_info("socket").fileno(), SOL_SOCKET, SO_LINGER, &now, sizeof(now))
            self.transport.abort()
        return 0
