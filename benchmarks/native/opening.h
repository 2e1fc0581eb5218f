/* Connections begin, fail, try again, end and come back. */
#ifndef PARLEY_OPENING_H
#define PARLEY_OPENING_H

#include "wire.h"

static void resume_turn(Engine *engine, uint32_t number);             /* turns.h */
static void next_turn(Engine *engine, uint32_t number);               /* turns.h */
static void lose_turns(Engine *engine, uint32_t number);              /* turns.h */
static void request_lost(Engine *engine, uint32_t number, int timed_out); /* http.h */
static void write_request(Engine *engine, uint32_t number);           /* http.h */
static void begin_connecting(Engine *engine, uint32_t number);

static void forget_file(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    if (connection->fd >= 0) close(connection->fd);
    if (connection->state == OPEN || connection->state == CLOSING) engine->open--;
    free(connection->in);
    free(connection->out);
    connection->in = connection->out = NULL;
    connection->in_length = connection->in_room = connection->out_at = connection->out_length = connection->out_room = 0;
    connection->fd = -1;
    connection->hung_up = connection->deaf = 0;
    engine->deadlines[number] = 0;
    while (connection->pending >= 0) { /* what it was asked is not answered any more */
        Pending *pending = &engine->pendings[connection->pending];
        if (pending->job >= 0) {
            engine->jobs[pending->job].active--;
            engine->told.unanswered++;
        }
        int32_t next = pending->next;
        pending->next = engine->pending_free;
        engine->pending_free = connection->pending;
        connection->pending = next;
    }
    connection->pending_last = -1;
}

static void opening_over(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    if (connection->job >= 0) engine->jobs[connection->job].active--;
    connection->job = -1;
}

static void sample(Engine *engine, const char *what, const uint8_t *text, uint32_t length) {
    Statistics *told = &engine->told;
    if (told->sample_count == SAMPLES) return;
    char *to = told->samples[told->sample_count++];
    uint32_t at = (uint32_t)snprintf(to, SAMPLE_BYTES / 2, "%s", what);
    if (length > SAMPLE_BYTES - 1 - at) length = SAMPLE_BYTES - 1 - at;
    if (length) memcpy(to + at, text, length);
    to[at + length] = 0;
}

/* A handshake failed, with nothing open yet: again later, or over. `after` in ns: what the server said, or -1. */
static void fail_opening(Engine *engine, uint32_t number, int again, int64_t after) {
    Connection *connection = &engine->connections[number];
    forget_file(engine, number);
    if (again && connection->attempt < engine->attempts) {
        int64_t wait = engine->delay << (connection->attempt < 16 ? connection->attempt - 1 : 15);
        if (wait > LONGEST_DELAY) wait = LONGEST_DELAY;
        if (engine->obey && after >= 0) wait = after;
        wait += (int64_t)((double)wait * engine->jitter * draw_unit(engine));
        connection->state = IDLE;
        if (connection->target >= 0) connection->target++; /* who comes back looks elsewhere */
        engine->told.retries++;
        set_timer(engine, number, engine->now + wait);
        return;
    }
    connection->state = CLOSED;
    opening_over(engine, number);
    lose_turns(engine, number);
    if (connection->kind == HTTP) request_lost(engine, number, 0);
}

static void opened(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    connection->state = OPEN;
    connection->code = 0;
    engine->deadlines[number] = 0;
    engine->open++;
    engine->told.opened++;
    int asked = connection->job >= 0;
    opening_over(engine, number);
    if (connection->kind == HTTP) {
        if (asked) record(engine, H_HANDSHAKE, engine->now - connection->due);
        if (connection->request_job >= 0) write_request(engine, number);
        return;
    }
    if (connection->lost_at) {
        engine->told.back++;
        record(engine, H_BACK, engine->now - connection->lost_at);
    } else {
        record(engine, H_HANDSHAKE, engine->now - connection->due);
    }
    if (connection->kind != WEBSOCKET) return;
    if (connection->hello.length) put_frame(engine, number, 1, connection->hello.bytes, connection->hello.length);
    if (connection->turn < 0) {
        connection->lost_at = 0;
        return;
    }
    if (engine->turns[connection->turn].state == WAITING) next_turn(engine, number);
    else if (engine->back_resume || !connection->lost_at) resume_turn(engine, number);
}

static Span request_of(Engine *engine, uint32_t number) {
    Group *group = &engine->groups[engine->connections[number].group];
    return group->requests[(number - group->first) % group->request_count];
}

/* The TCP connection stands: what was to be said first has been said. */
static void connected(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    engine->told.connected++;
    connection->state = HANDSHAKE;
    if (connection->kind != WEBSOCKET) opened(engine, number);
}

static void opening_errno(Engine *engine, uint32_t number, int error) {
    engine->connections[number].error = error;
    engine->told.errnos[error & 255]++;
    sample(engine, strerror(error), NULL, 0);
    fail_opening(engine, number, 1, -1);
}

/* Tries to say what comes first; connecting over loopback has ended when connect() returns. */
static void try_request(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    Span request = request_of(engine, number);
    if (!request.length) return;
    ssize_t took = send(connection->fd, request.bytes, request.length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (took < 0) {
        if (errno != EAGAIN && errno != ENOTCONN) opening_errno(engine, number, errno);
        return;
    }
    engine->told.bytes_out += request.length;
    if ((uint32_t)took < request.length) keep_unsent(connection, request.bytes + took, request.length - (uint32_t)took);
    connected(engine, number);
}

static void begin_connecting(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    Group *group = &engine->groups[connection->group];
    uint32_t nth = number - group->first;
    int one = 1;
    connection->attempt++;
    connection->status = connection->code = 0;
    connection->error = 0;
    connection->leaving = connection->deaf = connection->hung_up = 0;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) {
        opening_errno(engine, number, errno);
        return;
    }
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (group->rcvbuf) setsockopt(connection->fd, SOL_SOCKET, SO_RCVBUF, &group->rcvbuf, sizeof group->rcvbuf);
    if (group->source_count) {
        struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr = group->sources[nth % group->source_count]};
        setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(connection->fd, (struct sockaddr *)&source, sizeof source) < 0) {
            opening_errno(engine, number, errno);
            return;
        }
    }
    struct sockaddr_in *target = connection->target < 0 ? &group->targets[nth % group->target_count]
                                                        : &engine->back[(uint32_t)connection->target % engine->back_count];
    connection->state = CONNECTING;
    engine->deadlines[number] = engine->now + group->timeout;
    if (connect(connection->fd, (struct sockaddr *)target, sizeof *target) < 0 && errno != EINPROGRESS) {
        opening_errno(engine, number, errno);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = number};
    if (epoll_ctl(engine->epoll, EPOLL_CTL_ADD, connection->fd, &event) < 0) {
        opening_errno(engine, number, errno);
        return;
    }
    try_request(engine, number);
}

/* The socket can be written for the first time, or never will. */
static void connecting_ready(Engine *engine, uint32_t number) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(engine->connections[number].fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        opening_errno(engine, number, error);
    } else if (request_of(engine, number).length) {
        try_request(engine, number);
    } else {
        connected(engine, number);
    }
}

/* An open connection ended: `code` of the close frame, 1006 for none; `error` for a reset. */
static void lose(Engine *engine, uint32_t number, int code, int error) {
    Connection *connection = &engine->connections[number];
    int come_back = connection->kind == WEBSOCKET && engine->back_count && connection->leaving != GONE_FOR_GOOD;
    connection->code = (uint16_t)code;
    connection->error = error;
    if (connection->leaving) engine->told.left++;
    else if (error) engine->told.resets++;
    else if (connection->kind != HTTP) engine->told.closes[code < CODES ? code : CODES - 1]++;
    forget_file(engine, number);
    connection->state = CLOSED;
    if (connection->kind == HTTP) {
        request_lost(engine, number, 0);
        return;
    }
    if (!come_back) {
        lose_turns(engine, number);
        return;
    }
    Group *group = &engine->groups[connection->group];
    if (connection->target < 0) connection->target = (int32_t)((number - group->first) % engine->back_count);
    connection->target++;
    if (!connection->lost_at) connection->lost_at = engine->now;
    connection->attempt = 0;
    connection->state = IDLE;
    set_timer(engine, number, engine->now + (int64_t)((double)engine->back_within * draw_unit(engine)));
}

/* A timer of a connection that is idle (it connects) or open (`drain`: it leaves and comes back at once). */
static void timer_due(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    if (connection->state == IDLE) {
        begin_connecting(engine, number);
    } else if (connection->state == OPEN && engine->back_count) {
        const uint8_t normal[2] = {1000 >> 8, 1000 & 255};
        put_frame(engine, number, 8, normal, 2);
        int64_t within = engine->back_within;
        connection->leaving = GONE_TO_COME_BACK;
        engine->back_within = 0;
        lose(engine, number, 1000, 0);
        engine->back_within = within;
    }
}

static void deadline_passed(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    if (connection->state == CONNECTING || connection->state == HANDSHAKE) {
        engine->told.timeouts++;
        fail_opening(engine, number, 1, -1);
    } else if (connection->state == CLOSING) {
        lose(engine, number, 1006, 0);
    } else if (connection->kind == HTTP && connection->request_job >= 0) {
        forget_file(engine, number);
        connection->state = CLOSED;
        request_lost(engine, number, 1);
    } else {
        engine->deadlines[number] = 0;
    }
}

/* --- the answer to the upgrade ----------------------------------------------------------------------------------- */

/* The value of a header in a head that ends with an empty line (names in any case); its length, or -1. */
static int header(const uint8_t *head, uint32_t length, const char *name, const uint8_t **value) {
    size_t size = strlen(name);
    for (const uint8_t *line = memchr(head, '\n', length), *end = head + length; line && line + size + 2 < end;
         line = memchr(line + 1, '\n', (size_t)(end - line - 1))) {
        if (strncasecmp((const char *)line + 1, name, size) || line[1 + size] != ':') continue;
        const uint8_t *from = line + 2 + size, *to = memchr(from, '\r', (size_t)(end - from));
        while (to && from < to && *from == ' ') from++;
        if (!to) return -1;
        *value = from;
        return (int)(to - from);
    }
    return -1;
}

static int64_t decimal(const uint8_t *from, int length) {
    int64_t number = 0;
    for (int at = 0; at < length && at < 18 && from[at] >= '0' && from[at] <= '9'; at++)
        number = number * 10 + from[at] - '0';
    return number;
}

/* Takes the answer's head. Returns its length, 0 where it is not whole yet, -1 where the connection is done with. */
static int take_upgrade(Engine *engine, uint32_t number, const uint8_t *bytes, uint32_t length) {
    Connection *connection = &engine->connections[number];
    Group *group = &engine->groups[connection->group];
    const uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4), *value;
    if (!end) {
        if (length < 65536) return 0;
        engine->told.bad_answers++;
        fail_opening(engine, number, 0, -1);
        return -1;
    }
    uint32_t size = (uint32_t)(end - bytes) + 4;
    int status = size > 12 && !memcmp(bytes, "HTTP/1.", 7) ? (int)decimal(bytes + 9, 3) : 0;
    connection->status = (uint16_t)status;
    if (status == 101) {
        int got = header(bytes, size, "sec-websocket-accept", &value);
        if (!group->accept.length || (got == (int)group->accept.length && !memcmp(value, group->accept.bytes, (size_t)got))) {
            opened(engine, number);
            return connection->fd < 0 ? -1 : (int)size;
        }
    }
    if (status == 101 || !status) engine->told.bad_answers++;
    else engine->told.http[status % 1000]++;
    sample(engine, "", bytes, length);
    int64_t after = -1;
    int got = header(bytes, size, "retry-after-ms", &value);
    if (got > 0) after = decimal(value, got) * MS;
    else if ((got = header(bytes, size, "retry-after", &value)) > 0) after = decimal(value, got) * SECOND;
    if (after >= 0) {
        uint64_t ms = (uint64_t)(after / MS);
        Statistics *told = &engine->told;
        if (!told->retry_after_seen++ || ms < told->retry_after_least) told->retry_after_least = ms;
        if (ms > told->retry_after_most) told->retry_after_most = ms;
        record(engine, H_RETRY_AFTER, after);
    }
    fail_opening(engine, number, status == 429 || status >= 500, after);
    return -1;
}

#endif
