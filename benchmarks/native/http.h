/* HTTP/1.1 with connections kept alive: one request at a time on each. */
#ifndef PARLEY_HTTP_H
#define PARLEY_HTTP_H

#include "websocket.h"

static void request_over(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    engine->jobs[connection->request_job].active--;
    connection->request_job = -1;
    engine->deadlines[number] = 0;
    engine->http_freed++;
}

static void write_request(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    connection->body = BODY_NONE;
    connection->status = 0;
    connection->answered = connection->closes = 0;
    engine->deadlines[number] = engine->now + engine->jobs[connection->request_job].timeout;
    put(engine, number, connection->request.bytes, connection->request.length);
}

/* A request is due on a free connection, which may have to be opened for it. */
static void begin_request(Engine *engine, uint32_t number, int32_t job, Span request, uint8_t class, int64_t due) {
    Connection *connection = &engine->connections[number];
    connection->request_job = job;
    connection->request_class = class;
    connection->request = request;
    connection->request_due = due;
    connection->reused = connection->state == OPEN;
    if (connection->reused) {
        write_request(engine, number);
    } else if (connection->state == IDLE || connection->state == CLOSED) {
        connection->attempt = 0;
        begin_connecting(engine, number);
    } /* else it is being opened: `opened` writes it */
}

/* The connection ended under a request, if there was one. One that was kept alive may have been shut just then: the
   request goes once more, over a new one. */
static void request_lost(Engine *engine, uint32_t number, int timed_out) {
    Connection *connection = &engine->connections[number];
    if (connection->request_job < 0) return;
    if (connection->reused && !connection->answered && !timed_out) {
        connection->reused = 0;
        engine->told.http_again++;
        connection->attempt = 0;
        begin_connecting(engine, number);
        return;
    }
    if (timed_out) engine->told.http_timeouts[connection->request_class]++;
    else engine->told.http_broken[connection->request_class]++;
    request_over(engine, number);
}

static void response_over(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    int class = connection->request_class, fine = connection->status < 400;
    engine->told.http_status[class][connection->status % 1000]++;
    record(engine, (fine ? H_HTTP : H_HTTP_FAILED) + class, engine->now - connection->request_due);
    request_over(engine, number);
    connection->body = BODY_NONE;
    connection->reused = 1;
}

static void body_begins(Engine *engine, Connection *connection) {
    if (connection->answered != 1) return;
    connection->answered = 2;
    if (connection->status < 400)
        record(engine, H_HTTP_FIRST + connection->request_class, engine->now - connection->request_due);
}

/* Takes the head of a response: its length, or 0 where it is not whole yet. */
static uint32_t take_head(Connection *connection, const uint8_t *bytes, uint32_t length) {
    const uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4), *value;
    if (!end) return 0;
    uint32_t size = (uint32_t)(end - bytes) + 4;
    int status = size > 12 ? (int)decimal(bytes + 9, 3) : 0, got;
    if (status >= 100 && status < 200) return size;
    connection->status = (uint16_t)status;
    connection->answered = 1;
    if ((got = header(bytes, size, "connection", &value)) == 5 && !strncasecmp((const char *)value, "close", 5))
        connection->closes = 1;
    if ((got = header(bytes, size, "transfer-encoding", &value)) > 0) {
        connection->body = BODY_CHUNKS;
    } else if ((got = header(bytes, size, "content-length", &value)) > 0) {
        connection->left = decimal(value, got);
        connection->body = BODY_LENGTH;
    } else if (status == 204 || status == 304) {
        connection->left = 0;
        connection->body = BODY_LENGTH;
    } else {
        connection->body = BODY_TO_END;
    }
    return size;
}

/* Takes a line that ends with CRLF: its length with the end, or 0 where it is not whole yet. */
static uint32_t whole_line(const uint8_t *bytes, uint32_t length) {
    const uint8_t *end = memchr(bytes, '\n', length);
    return end ? (uint32_t)(end - bytes) + 1 : 0;
}

static void take_chunk_size(Connection *connection, const uint8_t *line, uint32_t length) {
    int64_t size = 0;
    for (uint32_t at = 0; at < length; at++) {
        int digit = line[at] >= '0' && line[at] <= '9' ? line[at] - '0'
                  : (line[at] | 32) >= 'a' && (line[at] | 32) <= 'f' ? (line[at] | 32) - 'a' + 10 : -1;
        if (digit < 0) break;
        size = size * 16 + digit;
    }
    connection->left = size;
    connection->body = size ? BODY_CHUNK : BODY_TRAILER;
}

/* Takes what it can; returns how many bytes, or -1 where the connection ended. */
static int64_t take_response(Engine *engine, uint32_t number, const uint8_t *bytes, uint32_t length) {
    Connection *connection = &engine->connections[number];
    uint32_t at = 0, took;
    while (1) {
        uint32_t left = length - at;
        const uint8_t *here = bytes + at;
        if (connection->request_job < 0) { /* nobody asked */
            if (left) lose(engine, number, 1006, 0);
            return left ? -1 : (int64_t)at;
        }
        switch (connection->body) {
        case BODY_NONE:
            if (!(took = take_head(connection, here, left))) return at;
            break;
        case BODY_CHUNKS:
            if (!(took = whole_line(here, left))) return at;
            take_chunk_size(connection, here, took);
            break;
        case BODY_CHUNK_END:
            if (!(took = whole_line(here, left))) return at;
            connection->body = BODY_CHUNKS;
            break;
        case BODY_TRAILER:
            if (!(took = whole_line(here, left))) return at;
            if (took <= 2) connection->left = 0, connection->body = BODY_LENGTH;
            break;
        case BODY_TO_END:
            if (left) body_begins(engine, connection);
            return length;
        default: /* BODY_LENGTH, BODY_CHUNK */
            if (!left && connection->left) return at;
            took = connection->left < left ? (uint32_t)connection->left : left;
            if (took) body_begins(engine, connection);
            connection->left -= took;
            if (connection->left) break;
            if (connection->body == BODY_CHUNK) {
                connection->body = BODY_CHUNK_END;
                break;
            }
            at += took;
            response_over(engine, number);
            if (!connection->closes) continue;
            lose(engine, number, 1006, 0);
            return -1;
        }
        at += took;
    }
}

#endif
