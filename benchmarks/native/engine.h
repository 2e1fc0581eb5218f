/* What the engine is made of; what it does stands in the other headers, each of which needs those before it:
   histogram, engine, wire, opening, turns, websocket, http, jobs, loop. One thread, one engine. */
#ifndef PARLEY_ENGINE_H
#define PARLEY_ENGINE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define MS 1000000LL
#define SECOND 1000000000LL
#define TICK (25 * MS)             /* how often deadlines are looked at */
#define CLOSE_WAIT (5 * SECOND)    /* for the other side's close frame */
#define LONGEST_DELAY (5 * SECOND) /* between attempts, where the server names none */
#define JOBS 32
#define CLASSES 16
#define CODES 5000
#define KINDS_OF_ERROR 48
#define SAMPLES 8
#define SAMPLE_BYTES 240
#define ID_BYTES 80
#define EVENTS 512
#define PIECES_AT_ONCE 512         /* of a job, before what has arrived is read */
#define READS_AT_ONCE 8            /* of a connection, before others are read */
#define BUFFER (1 << 18)
#define MOST_UNSENT (1 << 20)
#define STAMP_DIGITS 19
#define STAMP_BASE 1000000000000000000LL

enum { IDLE, CONNECTING, HANDSHAKE, OPEN, CLOSING, CLOSED, STATES };
enum { WEBSOCKET, HTTP, RAW };
enum { STAYING, GONE_FOR_GOOD, GONE_TO_COME_BACK };
enum { OPENING, SENDING, TURNS, REQUESTS };
enum { WAITING, SENT, ACCEPTED, DONE, CANCELLED, INTERRUPTED, FAILED, ERROR, LOST, TIMED_OUT, TURN_STATES };
enum { FRAME_WELCOME, FRAME_ACCEPTED, FRAME_QUEUED, FRAME_RESUMED, FRAME_DELTA, FRAME_SNAPSHOT, FRAME_RESTART,
       FRAME_DONE, FRAME_CANCELLED, FRAME_INTERRUPTED, FRAME_FAILED, FRAME_ERROR, FRAME_NOTICE, FRAME_EVENT,
       FRAME_PONG, FRAME_DRAIN, FRAME_OTHER, FRAME_TYPES };
enum { H_HANDSHAKE, H_BACK, H_RESUMED, H_ANSWER, H_LATE, H_STAMPED, H_ACCEPTED, H_FIRST, H_END, H_RETRY_AFTER,
       H_HTTP, H_HTTP_FIRST = H_HTTP + CLASSES, H_HTTP_FAILED = H_HTTP_FIRST + CLASSES,
       HISTOGRAMS = H_HTTP_FAILED + CLASSES };
enum { BODY_NONE, BODY_LENGTH, BODY_CHUNKS, BODY_CHUNK, BODY_CHUNK_END, BODY_TRAILER, BODY_TO_END };

typedef struct {
    const uint8_t *bytes;
    uint32_t length;
} Span;

typedef struct { /* what `prepare` was told */
    struct sockaddr_in *targets;
    struct in_addr *sources;
    Span *requests;
    uint32_t target_count, source_count, request_count, first;
    uint8_t kind;
    Span accept;
    int rcvbuf;
    int64_t timeout;
} Group;

typedef struct {
    int fd;
    uint8_t state, kind;
    uint8_t deaf;       /* reads nothing */
    uint8_t queued;     /* stands in `again` */
    uint8_t leaving;    /* the next loss is ours */
    uint8_t hung_up;    /* the peer has shut its side, or worse: read to the end */
    uint8_t body, reused, closes, answered; /* HTTP: of the response under way */
    uint16_t status, code;
    uint16_t attempt;
    int error;
    uint32_t group, timer; /* `timer`: serial of the one that counts */
    int32_t target;        /* of `back` where it came back, else -1 */
    int32_t job;           /* that opens it, or -1 */
    int32_t pending, pending_last;
    int32_t turn, turn_last, last_turn; /* under way and the queue behind it (linked by `next`) */
    int32_t request_job;                /* HTTP: under way, or -1 */
    uint8_t request_class;
    Span request;
    int64_t due, lost_at, request_due, left;
    uint8_t *in, *out;
    uint32_t in_length, in_room, out_at, out_length, out_room;
    Span hello;
    uint64_t frames, bytes;
} Connection;

typedef struct {
    int64_t due;
    int32_t next, job;
} Pending;

typedef struct {
    Span frame;
    int64_t due;
    int32_t next, job, connection;
    uint8_t state, shown, holes;
    char generation[ID_BYTES], code[40];
    int64_t epoch, seq;
    uint32_t deltas, jumps, repeats, snapshots;
    uint64_t chars, fnv;
} Turn;

typedef struct {
    uint8_t used, kind, done, poisson, in_turn, raw, waits, blocked;
    uint64_t count, fired, active, at_once;
    int64_t begin, timeout, last_due, room_since;
    double interval, next_due;
    int32_t *numbers;
    uint32_t number_count, cursor;
    uint8_t *frame; /* SENDING: whole and masked */
    uint32_t frame_length, header;
    int32_t stamp_at;
    Span answer;
    int32_t first_turn, expire; /* TURNS */
    Span *requests;             /* REQUESTS */
    uint8_t *classes;
    uint32_t request_count;
    uint64_t seen_free;
} Job;

typedef struct {
    int64_t when;
    uint32_t connection, serial;
} Timer;

typedef struct {
    char code[40], sample[SAMPLE_BYTES];
    uint64_t count;
} ErrorKind;

typedef struct {
    uint64_t opened, connected, http[1000], errnos[256], timeouts, bad_answers, cut_off, retries, retry_after_seen;
    uint64_t retry_after_least, retry_after_most; /* ms */
    uint64_t closes[CODES], resets, back, left;
    uint64_t frames_in, bytes_in, frames_out, bytes_out, pings, fragments, wrong_frames, types[FRAME_TYPES];
    uint64_t sent, answered, unanswered, late_answers, nowhere, clogged;
    uint64_t ends[TURN_STATES], deltas, jumps, repeats, holes, foreign, restarts, snapshots, duplicates;
    uint64_t http_status[CLASSES][1000], http_broken[CLASSES], http_timeouts[CLASSES], http_again;
    uint64_t loops;
    ErrorKind errors[KINDS_OF_ERROR];
    uint32_t error_kinds;
    char samples[SAMPLES][SAMPLE_BYTES]; /* of handshakes that failed */
    uint32_t sample_count;
} Statistics;

typedef struct {
    int epoll;
    uint32_t capacity, count, group_count, group_room;
    Group *groups;
    Connection *connections;
    int64_t *deadlines; /* of connections; 0 for none */
    Job jobs[JOBS];
    Pending *pendings;
    int32_t pending_room, pending_free;
    Turn *turns;
    int32_t turn_count, turn_room;
    Timer *timers; /* a heap; at most one that counts for each connection */
    uint32_t timer_count, timer_room;
    int32_t *again;
    uint32_t again_count;
    uint8_t *buffer;
    uint32_t buffer_room;
    uint64_t random, http_freed;
    int64_t now, next_tick;
    uint32_t open;
    /* policies */
    uint16_t attempts;
    int64_t delay, back_within;
    double jitter;
    uint8_t obey, back_drain, back_resume;
    struct sockaddr_in *back;
    uint32_t back_count;
    Span marker;
    Statistics told;
    Histogram histograms[HISTOGRAMS];
} Engine;

static inline int64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static inline void *must(void *memory) {
    if (!memory) abort(); /* a load generator without memory has nothing true to tell */
    return memory;
}

static inline uint64_t draw(Engine *engine) { /* splitmix64 */
    uint64_t z = (engine->random += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

static inline double draw_unit(Engine *engine) { /* in (0, 1] */
    return ((double)(draw(engine) >> 11) + 1.0) / 9007199254740992.0;
}

static inline void record(Engine *engine, int which, int64_t ns) {
    histogram_record(&engine->histograms[which], ns);
}

#endif
