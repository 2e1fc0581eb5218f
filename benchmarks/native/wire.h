/* Bytes out, timers, and the queue of connections that have more to be read. */
#ifndef PARLEY_WIRE_H
#define PARLEY_WIRE_H

#include "engine.h"

static void lose(Engine *engine, uint32_t number, int code, int error); /* opening.h */

/* --- timers: one that counts per connection ---------------------------------------------------------------------- */

static void set_timer(Engine *engine, uint32_t number, int64_t when) {
    if (engine->timer_count == engine->timer_room) {
        engine->timer_room = engine->timer_room ? engine->timer_room * 2 : 1024;
        engine->timers = must(realloc(engine->timers, engine->timer_room * sizeof(Timer)));
    }
    Timer timer = {when, number, ++engine->connections[number].timer};
    uint32_t at = engine->timer_count++;
    while (at && engine->timers[(at - 1) / 2].when > when) {
        engine->timers[at] = engine->timers[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    engine->timers[at] = timer;
}

static Timer take_timer(Engine *engine) {
    Timer first = engine->timers[0], last = engine->timers[--engine->timer_count];
    uint32_t at = 0, child;
    while ((child = 2 * at + 1) < engine->timer_count) {
        if (child + 1 < engine->timer_count && engine->timers[child + 1].when < engine->timers[child].when) child++;
        if (engine->timers[child].when >= last.when) break;
        engine->timers[at] = engine->timers[child];
        at = child;
    }
    engine->timers[at] = last;
    return first;
}

static void read_again(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    if (connection->queued) return;
    connection->queued = 1;
    engine->again[engine->again_count++] = (int32_t)number;
}

/* --- bytes out --------------------------------------------------------------------------------------------------- */

static void keep_unsent(Connection *connection, const uint8_t *bytes, uint32_t length) {
    uint32_t need = connection->out_length + length;
    if (connection->out_at) {
        memmove(connection->out, connection->out + connection->out_at, connection->out_length);
        connection->out_at = 0;
    }
    if (need > connection->out_room) {
        connection->out_room = need < 1024 ? 1024 : need * 2;
        connection->out = must(realloc(connection->out, connection->out_room));
    }
    memcpy(connection->out + connection->out_length, bytes, length);
    connection->out_length = need;
}

/* Whether the connection lives on. What the kernel does not take is kept and sent when it does. */
static int put(Engine *engine, uint32_t number, const uint8_t *bytes, uint32_t length) {
    Connection *connection = &engine->connections[number];
    if (connection->fd < 0) return 0;
    ssize_t took = 0;
    if (connection->out_length && connection->out_length + length > MOST_UNSENT) {
        engine->told.clogged++;
        return 0;
    }
    if (!connection->out_length && connection->state != CONNECTING) {
        took = send(connection->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (took < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                /* What the peer said before it left may still be there to be read: that tells why. */
                connection->hung_up = 1;
                connection->error = errno;
                read_again(engine, number);
                return 0;
            }
            took = 0;
        }
    }
    engine->told.bytes_out += length;
    if ((uint32_t)took < length) keep_unsent(connection, bytes + took, length - (uint32_t)took);
    return 1;
}

static void put_unsent(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    while (connection->out_length && connection->fd >= 0) {
        ssize_t took = send(connection->fd, connection->out + connection->out_at, connection->out_length,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (took <= 0) {
            if (took < 0 && errno != EAGAIN && errno != EINTR) {
                connection->hung_up = 1;
                connection->error = errno;
                read_again(engine, number);
            }
            return;
        }
        connection->out_at += (uint32_t)took;
        connection->out_length -= (uint32_t)took;
    }
    connection->out_at = 0;
}

/* --- frames out -------------------------------------------------------------------------------------------------- */

static void xor_key(uint8_t *to, const uint8_t *from, uint32_t length, const uint8_t key[4]) {
    for (uint32_t at = 0; at < length; at++) to[at] = from[at] ^ key[at & 3];
}

/* Writes a whole masked frame into `frame` (room for 14 bytes more than the payload); returns its length. */
static uint32_t make_frame(uint8_t *frame, uint8_t opcode, const uint8_t *payload, uint32_t length, uint32_t random) {
    uint32_t at = 2;
    frame[0] = 0x80 | opcode;
    if (length < 126) {
        frame[1] = 0x80 | (uint8_t)length;
    } else if (length < 65536) {
        frame[1] = 0x80 | 126;
        frame[2] = (uint8_t)(length >> 8);
        frame[3] = (uint8_t)length;
        at = 4;
    } else {
        frame[1] = 0x80 | 127;
        memset(frame + 2, 0, 4);
        for (int byte = 0; byte < 4; byte++) frame[6 + byte] = (uint8_t)(length >> (24 - 8 * byte));
        at = 10;
    }
    memcpy(frame + at, &random, 4);
    xor_key(frame + at + 4, payload, length, frame + at);
    return at + 4 + length;
}

static int put_frame(Engine *engine, uint32_t number, uint8_t opcode, const uint8_t *payload, uint32_t length) {
    uint8_t small[512], *frame = length + 14 > sizeof small ? must(malloc(length + 14)) : small;
    int fine = put(engine, number, frame, make_frame(frame, opcode, payload, length, (uint32_t)draw(engine)));
    engine->told.frames_out += (uint64_t)fine;
    if (frame != small) free(frame);
    return fine;
}

#endif
