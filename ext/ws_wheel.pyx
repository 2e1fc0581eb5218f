# cython: language_level=3
"""A hashed timer wheel: any number of deadlines for the price of one clock callback. It is given the time."""

from libc.math cimport ceil, floor


cdef class Timer:
    """Something with at most one deadline: a link in the wheel, so that arming it allocates nothing."""

    cpdef fire(self):
        """The deadline has passed; the timer is no longer armed and may be scheduled again."""
        raise NotImplementedError


cdef class Wheel:
    """Deadlines in slots of `tick_s` seconds. A timer fires at the first `advance` after its deadline,
    at most one tick late; one beyond the wheel's round waits in its slot for its turn."""

    def __init__(self, double tick_s, double now, Py_ssize_t slots=512):
        cdef Timer head
        if tick_s <= 0 or slots < 1:
            raise ValueError("a wheel needs a positive tick and a slot")
        self.tick_s = tick_s
        self.now_tick = <long long>floor(now / tick_s)
        self.slots = []
        for _ in range(slots):
            head = Timer()
            head.before = head.after = head
            self.slots.append(head)

    cpdef schedule(self, Timer timer, double now, double delay):
        """Arm `timer` for `now + delay` (seconds), instead of whatever it was armed for."""
        cdef long long due = <long long>ceil((now + delay) / self.tick_s)
        self.cancel(timer)
        timer.due = max(due, self.now_tick + 1)
        self._link(<Timer>self.slots[timer.due % len(self.slots)], timer)
        self.armed += 1

    cdef int _link(self, Timer head, Timer timer) except -1:
        timer.before = head.before
        timer.after = head
        head.before.after = timer
        head.before = timer
        return 0

    cpdef cancel(self, Timer timer):
        """Disarm `timer`; nothing happens if it is not armed."""
        if timer.after is None:
            return
        timer.before.after = timer.after
        timer.after.before = timer.before
        timer.before = timer.after = None
        self.armed -= 1

    cpdef advance(self, double now):
        """Fire what is due at `now`. A timer that is armed meanwhile waits for the next call."""
        cdef long long target = <long long>floor(now / self.tick_s)
        cdef long long first = max(self.now_tick + 1, target - <long long>len(self.slots) + 1)
        cdef long long tick
        cdef Timer due = Timer(), timer, head, following
        due.before = due.after = due
        for tick in range(first, target + 1):
            head = <Timer>self.slots[tick % len(self.slots)]
            timer = head.after
            while timer is not head:
                following = timer.after
                if timer.due <= target:
                    timer.before.after = timer.after
                    timer.after.before = timer.before
                    self._link(due, timer)
                timer = following
        self.now_tick = max(self.now_tick, target)
        # Fired ones are unlinked one by one: a callback may cancel any of those behind it.
        try:
            while due.after is not due:
                timer = due.after
                self.cancel(timer)
                timer.fire()
        finally:
            while due.after is not due:
                self.schedule(due.after, now, 0)
            due.before = due.after = None

    def timers(self):
        """All that are armed, in no particular order."""
        cdef list found = []
        cdef Timer head, timer
        for head in self.slots:
            timer = head.after
            while timer is not head:
                found.append(timer)
                timer = timer.after
        return found
