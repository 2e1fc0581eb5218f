# The engine for Python: what is prepared and what is read. All that moves is native (loop.h), without the lock.
# cython: boundscheck=False, wraparound=False

import errno
import resource
import socket
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc, realloc
from libc.string cimport memcpy

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <strings.h>
    #include "floor.h"
    """
    enum: JOBS, CLASSES, CODES, SAMPLES, ID_BYTES, STAMP_DIGITS, HISTOGRAM_LENGTH
    enum: IDLE, OPENING, SENDING, TURNS, REQUESTS, DONE, TURN_STATES, FRAME_TYPES, HISTOGRAMS, H_HTTP, RUN_DONE, RUN_INTERRUPTED
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family, sin_port
        in_addr sin_addr
    ctypedef struct Histogram:
        uint64_t *counts
        uint64_t total
    ctypedef struct Span:
        const uint8_t *bytes
        uint32_t length
    ctypedef struct Group:
        sockaddr_in *targets
        in_addr *sources
        Span *requests
        Span accept
        uint8_t kind
        int rcvbuf
        int64_t timeout
    ctypedef struct Connection:
        int fd, error
        uint8_t state, kind, deaf
        uint16_t status, code
        int32_t turn, last_turn
        Span hello
        uint64_t frames, bytes
    ctypedef struct Turn:
        int32_t next
        uint8_t state, shown, holes
        char generation[80]
        char code[40]
        int64_t epoch, seq
        uint32_t deltas, jumps, repeats, snapshots
        uint64_t chars, fnv
    ctypedef struct Job:
        uint8_t poisson, in_turn, raw, waits
        int64_t timeout
        int32_t *numbers
        uint32_t number_count, frame_length, header, request_count
        uint8_t *frame
        int32_t stamp_at, first_turn, expire
        Span answer
        Span *requests
        uint8_t *classes
    ctypedef struct ErrorKind:
        char code[40]
        char sample[240]
        uint64_t count
    ctypedef struct Statistics:
        uint64_t opened, connected, timeouts, bad_answers, cut_off, retries, retry_after_seen
        uint64_t retry_after_least, retry_after_most, resets, back, left
        uint64_t http[1000]
        uint64_t errnos[256]
        uint64_t closes[5000]
        uint64_t frames_in, bytes_in, frames_out, bytes_out, pings, fragments, wrong_frames
        uint64_t types[17]
        uint64_t sent, answered, unanswered, late_answers, nowhere, clogged
        uint64_t ends[10]
        uint64_t deltas, jumps, repeats, holes, foreign, restarts, snapshots, duplicates
        uint64_t http_status[16][1000]
        uint64_t http_broken[16]
        uint64_t http_timeouts[16]
        uint64_t http_again, loops
        ErrorKind errors[48]
        uint32_t error_kinds, sample_count
        char samples[8][240]
    ctypedef struct CEngine "Engine":
        uint32_t capacity, count, group_count, open, back_count
        Connection *connections
        Job jobs[32]
        Turn *turns
        int32_t turn_count
        uint16_t attempts
        int64_t delay, back_within
        double jitter
        uint8_t obey, back_drain, back_resume
        sockaddr_in *back
        Span marker
        Statistics told
        Histogram histograms[58]
        int epoll
    uint32_t histogram_index(int64_t)
    int64_t monotonic()
    void make_engine(CEngine *, uint32_t, uint64_t)
    void unmake_engine(CEngine *)
    Group *add_group(CEngine *, uint32_t, uint32_t, uint32_t)
    void add_connection(CEngine *, uint32_t)
    void add_turn(CEngine *, Span, int32_t)
    int32_t new_job(CEngine *, uint8_t, uint64_t, double, uint64_t, int64_t)
    void end_connection(CEngine *, uint32_t, int)
    void read_on(CEngine *, uint32_t)
    void resume_turn(CEngine *, uint32_t)
    void cancel_jobs(CEngine *)
    void clear_told(CEngine *)
    uint32_t make_frame(uint8_t *, uint8_t, const uint8_t *, uint32_t, uint32_t)
    int run(CEngine *, int64_t, int)
    int floor_serve(int, int, Span)

_KINDS = {"websocket": 0, "http": 1, "raw": 2}
_STATES = ("idle", "connecting", "handshake", "open", "closing", "closed")
_ENDINGS = {"close": 0, "fin": 1, "rst": 2, "half": 3, "mid-frame": 4, "abandon": 5}
_TURN_STATES = (
    "waiting", "sent", "accepted", "done", "cancelled", "interrupted", "failed", "error", "lost", "timeout",
)
_FRAMES = (
    "welcome", "accepted", "queued", "resumed", "delta", "snapshot", "restart", "done", "cancelled", "interrupted",
    "failed", "error", "notice", "event", "pong", "drain", "other",
)
_HISTOGRAMS = (
    "handshake", "back", "resumed", "answer", "late", "stamped", "accepted", "first", "end", "retry_after",
    *(f"http.{number}" for number in range(CLASSES)),
    *(f"http.{number}.first" for number in range(CLASSES)),
    *(f"http.{number}.failed" for number in range(CLASSES)),
)


cdef dict _plain(Statistics *told):
    # Counters that are told as they are.
    return {
        "opened": told.opened, "connected": told.connected, "retries": told.retries, "resets": told.resets,
        "back": told.back, "left": told.left, "frames_in": told.frames_in, "bytes_in": told.bytes_in,
        "frames_out": told.frames_out, "bytes_out": told.bytes_out, "pings": told.pings, "fragments": told.fragments,
        "wrong_frames": told.wrong_frames, "sent": told.sent, "answered": told.answered,
        "unanswered": told.unanswered, "late_answers": told.late_answers, "nowhere": told.nowhere,
        "clogged": told.clogged, "deltas": told.deltas, "jumps": told.jumps, "repeats": told.repeats,
        "holes": told.holes, "foreign": told.foreign, "restarts": told.restarts, "snapshots": told.snapshots,
        "duplicates": told.duplicates, "http_again": told.http_again, "loops": told.loops,
    }


cdef dict _nonzero(uint64_t *counts, int length):
    cdef int at
    return {str(at): counts[at] for at in range(length) if counts[at]}


def bucket(int64_t us):
    return histogram_index(us)


def serve_floor(int listening, int stop, bytes answer):
    cdef Span span = _span(answer)
    cdef int fine
    with nogil:
        fine = floor_serve(listening, stop, span)
    if not fine:
        raise OSError("the floor could not watch its files")


cdef Span _span(bytes data):
    cdef Span span
    span.bytes = <const uint8_t *>PyBytes_AS_STRING(data)
    span.length = <uint32_t>PyBytes_GET_SIZE(data)
    return span


cdef sockaddr_in _address(target) except *:
    cdef sockaddr_in address
    host, port = target
    address.sin_family = socket.AF_INET
    address.sin_port = <uint16_t>socket.htons(port)
    address.sin_addr.s_addr = _ip(host)
    return address


cdef uint32_t _ip(host) except *:
    cdef uint32_t number
    cdef bytes packed = socket.inet_aton(host)
    memcpy(&number, PyBytes_AS_STRING(packed), 4)
    return number


cdef object _text(const char *text):
    return (<bytes>text).decode("utf-8", "replace")


cdef class Engine:
    cdef CEngine engine
    cdef list groups, kept  # what the C side points into: for ever, and by job
    cdef dict hellos
    cdef object marker
    cdef int64_t since
    cdef double user, system

    def __cinit__(self, uint32_t capacity=20_000, *, uint64_t seed=1):
        make_engine(&self.engine, capacity, seed)
        self.groups, self.kept, self.hellos, self.marker = [], [None] * JOBS, {}, b""
        if self.engine.epoll < 0:
            raise OSError("no epoll: the file limit is reached")
        self._clock()

    def __dealloc__(self):
        unmake_engine(&self.engine)

    def close(self):
        unmake_engine(&self.engine)

    # --- connections ----------------------------------------------------------------------------------------------

    def prepare(self, targets, requests, *, count=0, sources=(), kind="websocket", bytes accept=b"", int rcvbuf=0,
                double timeout_s=10.0):
        cdef uint32_t number, first = self.engine.count, wanted = count or len(requests)
        cdef Group *group
        if not targets or not requests:
            raise ValueError("no targets, or no requests")
        if first + wanted > self.engine.capacity:
            raise ValueError(f"{first + wanted} connections; the engine was made for {self.engine.capacity}")
        requests = [bytes(request) for request in requests]
        self.groups.append((requests, accept))
        group = add_group(&self.engine, len(targets), len(sources), len(requests))
        group.kind, group.rcvbuf, group.timeout = _KINDS[kind], rcvbuf, <int64_t>(timeout_s * 1e9)
        group.accept = _span(accept)
        for number, target in enumerate(targets):
            group.targets[number] = _address(target)
        for number, source in enumerate(sources):
            group.sources[number].s_addr = _ip(source)
        for number, request in enumerate(requests):
            group.requests[number] = _span(request)
        for number in range(wanted):
            add_connection(&self.engine, self.engine.group_count - 1)
        return range(first, first + wanted)

    def open(self, numbers, *, double rate=0.0, uint64_t at_once=0, bint poisson=False, int64_t begin_ns=0):
        return self._job(OPENING, numbers, len(numbers), rate, at_once, poisson, begin_ns)

    def retry(self, *, uint16_t attempts, double delay_ms=100.0, double jitter=0.5, bint obey=True):
        self.engine.attempts, self.engine.delay = attempts, <int64_t>(delay_ms * 1e6)
        self.engine.jitter, self.engine.obey = jitter, obey

    def come_back(self, targets, *, double within_ms, bint drain=True, bint resume=True):
        cdef uint32_t number
        self.engine.back_count = 0
        self.engine.back = <sockaddr_in *>realloc(self.engine.back, (len(targets) + 1) * sizeof(sockaddr_in))
        for number, target in enumerate(targets):
            self.engine.back[number] = _address(target)
        self.engine.back_count = len(targets)
        self.engine.back_within = <int64_t>(within_ms * 1e6)
        self.engine.back_drain, self.engine.back_resume = drain, resume

    def stop_reading(self, numbers):
        for number in numbers:
            self._at(number).deaf = 1

    def read_on(self, numbers):
        for number in numbers:
            self._at(number)
            read_on(&self.engine, number)

    def end(self, numbers, how):
        cdef int ending = _ENDINGS[how]
        for number in numbers:
            self._at(number)
            end_connection(&self.engine, number, ending)

    # --- work -----------------------------------------------------------------------------------------------------

    def send(self, numbers, bytes payload, *, uint64_t count, double rate=0.0, uint64_t at_once=0, bint poisson=False,
             int64_t begin_ns=0, order="random", answer=b"", int32_t stamp_at=-1, bint raw=False,
             double timeout_s=10.0):
        cdef uint32_t length = <uint32_t>len(payload)
        if stamp_at >= 0 and stamp_at + <int>STAMP_DIGITS > <int64_t>length:
            raise ValueError(f"no room for {STAMP_DIGITS} digits at {stamp_at} of {length}")
        cdef int32_t which = self._job(SENDING, numbers, count, rate, at_once, poisson, begin_ns)
        cdef Job *job = &self.engine.jobs[which]
        job.in_turn, job.raw, job.stamp_at = order == "round", raw, stamp_at
        job.waits, job.timeout = answer is not None, <int64_t>(timeout_s * 1e9)
        job.frame = <uint8_t *>malloc(length + 14)
        if raw:
            memcpy(job.frame, PyBytes_AS_STRING(payload), length)
            job.frame_length = length
        else:
            job.frame_length = make_frame(
                job.frame, 1, <const uint8_t *>PyBytes_AS_STRING(payload), length, <uint32_t>(0x5EED1E57 + which)
            )
            job.header = job.frame_length - length
        self.kept[which] = answer = answer or b""
        job.answer = _span(answer)
        return which

    def stamps(self, bytes marker):
        self.marker = marker
        self.engine.marker = _span(marker)

    def turns(self, frames, numbers, *, double rate=0.0, uint64_t at_once=0, bint poisson=False, int64_t begin_ns=0,
              double timeout_s=60.0):
        cdef int32_t which = self._job(TURNS, numbers, len(frames), rate, at_once, poisson, begin_ns)
        cdef Job *job = &self.engine.jobs[which]
        cdef uint32_t nth
        frames = [bytes(frame) for frame in frames]
        job.first_turn = job.expire = self.engine.turn_count
        job.timeout = <int64_t>(timeout_s * 1e9)
        for nth, frame in enumerate(frames):
            add_turn(&self.engine, _span(frame), job.numbers[nth % job.number_count])
        self.kept[which] = frames
        return which

    def requests(self, requests, classes, numbers, *, uint64_t count=0, double rate=0.0, uint64_t at_once=0,
                 bint poisson=False, int64_t begin_ns=0, double timeout_s=30.0):
        requests = [bytes(request) for request in requests]
        if not requests or len(classes) == 0 or not all(0 <= each < CLASSES for each in classes):
            raise ValueError(f"no requests, or a class outside 0..{CLASSES - 1}")
        cdef int32_t which = self._job(REQUESTS, numbers, count or len(requests), rate, at_once, poisson, begin_ns)
        cdef Job *job = &self.engine.jobs[which]
        cdef uint32_t nth, known = <uint32_t>len(classes)
        job.request_count = <uint32_t>len(requests)
        job.requests = <Span *>malloc(len(requests) * sizeof(Span))
        job.classes = <uint8_t *>malloc(len(requests))
        job.timeout = <int64_t>(timeout_s * 1e9)
        for nth in range(job.request_count):
            job.requests[nth] = _span(requests[nth])
            job.classes[nth] = classes[nth % known]
        self.kept[which] = requests
        return which

    def resume(self, numbers):
        for number in numbers:
            self._at(number)
            resume_turn(&self.engine, number)

    def set_hello(self, numbers, bytes payload):
        for number in numbers:
            self._at(number).hello = _span(payload)
        self.hellos[payload] = None

    cdef Connection *_at(self, number) except NULL:
        if not 0 <= number < self.engine.count:
            raise IndexError(f"no connection {number}: there are {self.engine.count}")
        return &self.engine.connections[<uint32_t>number]

    cdef int32_t _job(self, uint8_t kind, numbers, uint64_t count, double rate, uint64_t at_once, bint poisson,
                      int64_t begin_ns) except -1:
        cdef uint32_t nth
        if count and not len(numbers):
            raise ValueError("no connections to work on")
        for number in numbers:
            self._at(number)
        cdef int32_t which = new_job(&self.engine, kind, count, rate, at_once, begin_ns)
        if which < 0:
            raise ValueError(f"{JOBS} jobs are under way")
        cdef Job *job = &self.engine.jobs[which]
        job.numbers = <int32_t *>malloc((len(numbers) + 1) * sizeof(int32_t))
        job.number_count, job.poisson = <uint32_t>len(numbers), poisson
        for nth, number in enumerate(numbers):
            job.numbers[nth] = number
        return which

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, double seconds, *, until="jobs"):
        cdef int64_t end = monotonic() + <int64_t>(seconds * 1e9)
        cdef bint jobs = {"time": False, "jobs": True}[until]
        cdef int how = RUN_INTERRUPTED
        if self.engine.epoll < 0:
            raise ValueError("the engine is closed")
        while how == RUN_INTERRUPTED:
            PyErr_CheckSignals()
            with nogil:
                how = run(&self.engine, end, jobs)
        return how == RUN_DONE

    def cancel(self):
        cancel_jobs(&self.engine)

    # --- what came of it ------------------------------------------------------------------------------------------

    def statistics(self):
        cdef Statistics *told = &self.engine.told
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            **_plain(told),
            "open": self.engine.open,
            "failures": {
                "http": _nonzero(told.http, 1000),
                "errno": {
                    errno.errorcode[int(code)]: count for code, count in _nonzero(told.errnos, 256).items()
                },
                "timeout": told.timeouts,
                "answer": told.bad_answers,
                "cut_off": told.cut_off,
                "samples": [_text(told.samples[at]) for at in range(told.sample_count)],
            },
            "retry_after": {
                "seen": told.retry_after_seen, "least_ms": told.retry_after_least, "most_ms": told.retry_after_most,
            },
            "closes": _nonzero(told.closes, CODES),
            "types": {_FRAMES[int(at)]: count for at, count in _nonzero(told.types, FRAME_TYPES).items()},
            "turns": {_TURN_STATES[int(at)]: count for at, count in _nonzero(told.ends, TURN_STATES).items()},
            "errors": {
                _text(told.errors[at].code): {"count": told.errors[at].count, "sample": _text(told.errors[at].sample)}
                for at in range(told.error_kinds)
            },
            "http": {
                str(at): {
                    "status": statuses,
                    "broken": told.http_broken[at],
                    "timeout": told.http_timeouts[at],
                }
                for at in range(<int>CLASSES)
                if (statuses := _nonzero(told.http_status[at], 1000)) or told.http_broken[at] or told.http_timeouts[at]
            },
            "wall_s": (monotonic() - self.since) / 1e9,
            "user_s": usage.ru_utime - self.user,
            "system_s": usage.ru_stime - self.system,
        }

    def histogram(self, name):
        cdef Histogram *histogram = &self.engine.histograms[_HISTOGRAMS.index(name)]
        cdef uint32_t at
        if not histogram.total:
            return []
        return [(at, histogram.counts[at]) for at in range(<uint32_t>HISTOGRAM_LENGTH) if histogram.counts[at]]

    def histograms(self):
        return {name: counts for name in _HISTOGRAMS if (counts := self.histogram(name))}

    def reset(self):
        clear_told(&self.engine)
        self._clock()

    cdef _clock(self):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.user, self.system, self.since = usage.ru_utime, usage.ru_stime, monotonic()

    def connection(self, number):
        cdef Connection *connection = self._at(number)
        port = 0
        if connection.fd >= 0:
            with socket.socket(fileno=socket.dup(connection.fd)) as ours:
                port = ours.getsockname()[1]
        return {
            "state": _STATES[connection.state], "status": connection.status, "code": connection.code,
            "error": connection.error, "frames": connection.frames, "bytes": connection.bytes,
            "turn": connection.turn, "port": port,
        }

    def states(self, numbers):
        cdef dict counts = {}
        for number in numbers:
            name = _STATES[self._at(number).state]
            counts[name] = counts.get(name, 0) + 1
        return counts

    def turn(self, number):
        if not 0 <= number < self.engine.turn_count:
            raise IndexError(f"no turn {number}: there are {self.engine.turn_count}")
        cdef Turn *turn = &self.engine.turns[<int32_t>number]
        return {
            "state": _TURN_STATES[turn.state], "generation": _text(turn.generation), "epoch": turn.epoch,
            "seq": turn.seq, "deltas": turn.deltas, "chars": turn.chars, "fnv": turn.fnv, "jumps": turn.jumps,
            "repeats": turn.repeats, "holes": turn.holes, "snapshots": turn.snapshots, "code": _text(turn.code),
        }

    def turn_count(self):
        return self.engine.turn_count
