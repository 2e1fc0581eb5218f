from ext.ws_writer cimport Writer

cdef class Metered(Writer):
    cdef double frames_until
    cdef double bytes_until

    cdef bint too_many_bytes(self, Py_ssize_t size, double now) except -1
    cdef bint too_many_frames(self, Py_ssize_t frames, double now) except -1
    cdef list allowed(self, list events, Py_ssize_t frames, double now)
