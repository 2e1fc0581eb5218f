from ext.ws_frames cimport FrameParser
from ext.ws_wheel cimport Timer, Wheel

cdef class Shared:
    cdef readonly object loop
    cdef readonly object limits
    cdef readonly Wheel wheel
    cdef readonly Py_ssize_t connections
    cdef readonly Py_ssize_t authorising
    cdef readonly set tasks
    cdef public bint draining
    cdef object accept
    cdef object door
    cdef object on_empty
    cdef object clock
    cdef FrameParser spare
    cdef list dirty
    cdef object tick
    cdef double last_turn
    cdef bint stalled
    cdef double unread_since
    cdef double forgiving_until
    cdef bytearray read_buffer
    cdef object read_view
    cdef unsigned char* read_data
    cdef double phase
    cdef double ping_s
    cdef double pong_s
    cdef double close_s
    cdef double message_s
    cdef double stuck_s
    cdef double frame_s
    cdef double frames_slack
    cdef double byte_s
    cdef double bytes_slack
    cdef Py_ssize_t write_high
    cdef Py_ssize_t write_max

    cdef double now(self) except -1
    cdef double spread(self) except -1
    cdef double metered_from(self, double now) except -1
    cdef int entered(self) except -1
    cdef int left(self) except -1
    cdef int flush_soon(self, Writer writer) except -1

cdef class Writer(Timer):
    cdef Shared shared
    cdef object transport
    cdef object out
    cdef Py_ssize_t out_bytes
    cdef unsigned char dirty
    cdef unsigned char write_paused

    cdef int queue(self, bytes data) except -1
    cdef int flush(self) except -1
    cdef int overflowed(self) except -1
    cdef int drop(self) except -1
