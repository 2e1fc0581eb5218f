/* The loop: what is due goes out, what has come is taken, until the time is up or all jobs are done. */
#ifndef PARLEY_LOOP_H
#define PARLEY_LOOP_H

#include "jobs.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum { RUN_TIME_UP, RUN_DONE, RUN_INTERRUPTED };

static void keep_rest(Connection *connection, const uint8_t *rest, uint32_t length) {
    if (length > connection->in_room || (!length && connection->in)) {
        free(connection->in);
        connection->in_room = length ? length + 512 : 0;
        connection->in = length ? must(malloc(connection->in_room)) : NULL;
    }
    if (length) memcpy(connection->in, rest, length);
    connection->in_length = length;
}

/* Takes what stands in the buffer; what is incomplete is kept with the connection. Whether it goes on. */
static int take(Engine *engine, uint32_t number, uint32_t length) {
    Connection *connection = &engine->connections[number];
    const uint8_t *bytes = engine->buffer;
    uint32_t at = 0;
    if (connection->state == CONNECTING) connected(engine, number);
    if (connection->fd < 0) return 0;
    if (connection->kind == RAW) return 1;
    if (connection->kind == HTTP) {
        int64_t took = take_response(engine, number, bytes, length);
        if (took < 0) return 0;
        keep_rest(connection, bytes + took, length - (uint32_t)took);
        return 1;
    }
    if (connection->state == HANDSHAKE) {
        int took = take_upgrade(engine, number, bytes, length);
        if (took < 0) return 0;
        at = (uint32_t)took;
    }
    if (connection->state >= OPEN) {
        int64_t took = take_frames(engine, number, bytes + at, length - at);
        if (took < 0) return 0;
        at += (uint32_t)took;
    }
    keep_rest(connection, bytes + at, length - at);
    return 1;
}

/* The peer has ended it: `error` for a reset. */
static void ended(Engine *engine, uint32_t number, int error) {
    Connection *connection = &engine->connections[number];
    if (connection->state == CONNECTING || connection->state == HANDSHAKE) {
        if (error) {
            opening_errno(engine, number, error);
        } else {
            engine->told.cut_off++;
            fail_opening(engine, number, 1, -1);
        }
    } else if (connection->kind == HTTP && connection->body == BODY_TO_END && connection->request_job >= 0 && !error) {
        response_over(engine, number);
        lose(engine, number, 1006, 0);
    } else {
        lose(engine, number, 1006, error);
    }
}

static void read_from(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    for (int reads = 0; reads < READS_AT_ONCE && connection->fd >= 0; reads++) {
        uint32_t kept = connection->in_length;
        if (kept + BUFFER > engine->buffer_room) {
            engine->buffer_room = kept + 2 * BUFFER;
            engine->buffer = must(realloc(engine->buffer, engine->buffer_room));
        }
        ssize_t got = recv(connection->fd, engine->buffer + kept, BUFFER, MSG_DONTWAIT);
        if (got <= 0) {
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
                if (connection->hung_up && connection->error) ended(engine, number, connection->error);
                return;
            }
            ended(engine, number, got < 0 ? errno : connection->error);
            return;
        }
        engine->now = monotonic();
        connection->bytes += (uint64_t)got;
        engine->told.bytes_in += (uint64_t)got;
        if (kept) memcpy(engine->buffer, connection->in, kept);
        if (!take(engine, number, kept + (uint32_t)got)) return;
        if (got < BUFFER && !connection->hung_up) return;
    }
    if (connection->fd >= 0) read_again(engine, number);
}

static void handle(Engine *engine, uint32_t number, uint32_t events) {
    Connection *connection = &engine->connections[number];
    if (connection->fd < 0) return;
    if (connection->state == CONNECTING) {
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) return;
        connecting_ready(engine, number);
        if (connection->fd < 0) return;
    }
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) connection->hung_up = 1;
    if (events & EPOLLOUT && connection->out_length) put_unsent(engine, number);
    if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))) return;
    if (!connection->deaf) {
        read_from(engine, number);
    } else if (events & (EPOLLHUP | EPOLLERR)) { /* reset: nothing is left to be read */
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        lose(engine, number, 1006, error);
    }
}

static void tick(Engine *engine) {
    for (uint32_t number = 0; number < engine->count; number++)
        if (engine->deadlines[number] && engine->deadlines[number] <= engine->now) deadline_passed(engine, number);
    engine->next_tick = engine->now + TICK;
}

static void timers_due(Engine *engine) {
    while (engine->timer_count && engine->timers[0].when <= engine->now) {
        Timer timer = take_timer(engine);
        if (engine->connections[timer.connection].timer == timer.serial) timer_due(engine, timer.connection);
    }
}

static void read_rest(Engine *engine) {
    uint32_t count = engine->again_count;
    for (uint32_t at = 0; at < count; at++) {
        uint32_t number = (uint32_t)engine->again[at];
        engine->connections[number].queued = 0;
        if (engine->connections[number].fd < 0) continue;
        if (engine->connections[number].deaf && engine->connections[number].error)
            lose(engine, number, 1006, engine->connections[number].error);
        else if (!engine->connections[number].deaf) read_from(engine, number);
    }
    engine->again_count -= count;
    memmove(engine->again, engine->again + count, engine->again_count * sizeof *engine->again);
}

static int wait_for(Engine *engine, struct epoll_event *events, int64_t until) {
    static int without_pwait2;
    int64_t ns = until - engine->now;
    if (ns < 0 || engine->again_count) ns = 0;
    if (!without_pwait2) {
        struct timespec time = {ns / SECOND, ns % SECOND};
        int got = (int)syscall(SYS_epoll_pwait2, engine->epoll, events, EVENTS, &time, NULL, 0);
        if (got >= 0 || errno != ENOSYS) return got;
        without_pwait2 = 1;
    }
    return epoll_wait(engine->epoll, events, EVENTS, (int)(ns / MS)); /* the rest of a millisecond is spun */
}

static int run(Engine *engine, int64_t until, int jobs) {
    struct epoll_event events[EVENTS];
    int done = 0;
    engine->now = monotonic();
    for (int which = 0; which < JOBS; which++) {
        Job *job = &engine->jobs[which];
        if (!job->begin) job->begin = engine->now, job->next_due = (double)engine->now;
    }
    while (1) {
        int ticks = engine->now >= engine->next_tick;
        engine->told.loops++;
        timers_due(engine);
        if (ticks) tick(engine);
        done = fire_jobs(engine, ticks);
        if (engine->again_count) read_rest(engine);
        if ((jobs && done) || engine->now >= until) break;
        int64_t next = next_piece(engine);
        if (engine->timer_count && engine->timers[0].when < next) next = engine->timers[0].when;
        if (engine->next_tick < next) next = engine->next_tick;
        engine->now = monotonic();
        int got = wait_for(engine, events, next < until ? next : until);
        if (got < 0 && errno == EINTR) return RUN_INTERRUPTED;
        engine->now = monotonic();
        for (int at = 0; at < got; at++) {
            handle(engine, events[at].data.u32, events[at].events);
        }
    }
    return done ? RUN_DONE : RUN_TIME_UP;
}

#endif
