# cython: language_level=3
"""How much one peer may send: two token buckets in two numbers."""

from libc.math cimport ceil

from ext.ws_writer cimport Shared, Writer


cdef class Metered(Writer):
    """A connection's account of frames and bytes: the time until which what came would last at the rate. How far ahead
    of now that may be is the size of the bucket; a thousandth of a frame or byte more, as sums are not exact. After a stall
    of ours the account goes on from its beginning: what came then and is read at once came one by one."""

    cdef bint too_many_bytes(self, Py_ssize_t size, double now) except -1:
        cdef Shared shared = self.shared
        self.bytes_until = max(self.bytes_until, shared.metered_from(now)) + size * shared.byte_s
        return self.bytes_until - now > shared.bytes_slack + 0.001 * shared.byte_s

    cdef bint too_many_frames(self, Py_ssize_t frames, double now) except -1:
        cdef Shared shared = self.shared
        self.frames_until = max(self.frames_until, shared.metered_from(now)) + frames * shared.frame_s
        return self.frames_until - now > shared.frames_slack + 0.001 * shared.frame_s

    cdef list allowed(self, list events, Py_ssize_t frames, double now):
        # Of `frames` that came at once and made `events`, what came before the bucket was empty; fragments, which make
        # none, are taken for the first.
        cdef double over_s = self.frames_until - now - self.shared.frames_slack
        cdef double surplus = ceil(over_s / self.shared.frame_s - 0.001)
        return events[:max(0, len(events) - <Py_ssize_t>min(surplus, <double>frames))]

    def spend(self, Py_ssize_t size, Py_ssize_t frames, double now):
        return self.too_many_bytes(size, now), self.too_many_frames(frames, now)
