from ext.ws_frames cimport FrameParser
from ext.ws_opening cimport Handshake
from ext.ws_rates cimport Metered

cdef class Connection(Metered):
    cdef object handler
    cdef Handshake handshake
    cdef object place
    cdef FrameParser parser
    cdef bytes unanswered
    cdef str close_reason
    cdef readonly double last_activity
    cdef double message_since
    cdef double paused_since
    cdef Py_ssize_t unsent
    cdef unsigned short close_code
    cdef unsigned char state
    cdef unsigned char pinged
    cdef unsigned char read_paused

    cdef int take_request(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int authorise(self, bytes head) except -1
    cdef int come_from(self, tuple peer) except -1
    cdef int cancel_authorising(self) except -1
    cdef int respond(self, bytes answer) except -1
    cdef int answered(self, object answer) except -1
    cdef int opened(self, object handler, bytes answer) except -1
    cdef int take_frames(self, unsigned char* data, Py_ssize_t size) except -1
    cdef int deliver(self, list events) except -1
    cdef int overran(self, str what, double refill_s) except -1
    cdef int answer_ping(self, bytes payload) except -1
    cdef int peer_closed(self, int code, str reason) except -1
    cdef int fail(self, int code, str reason) except -1
    cdef int handler_failed(self) except -1
    cdef int tell_closed(self, object handler, int code, str reason) except -1
    cdef int heartbeat(self) except -1
    cdef int beat_in(self, double delay, double now) except -1
    cdef int linger(self) except -1
