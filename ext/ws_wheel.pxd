cdef class Timer:
    cdef Timer before
    cdef Timer after
    cdef long long due

    cpdef fire(self)

cdef class Wheel:
    cdef readonly double tick_s
    cdef readonly Py_ssize_t armed
    cdef list slots
    cdef long long now_tick

    cdef int _link(self, Timer head, Timer timer) except -1
    cpdef schedule(self, Timer timer, double now, double delay)
    cpdef cancel(self, Timer timer)
    cpdef advance(self, double now)
