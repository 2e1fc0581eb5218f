/* Frames in, and what is matched with what was sent. */
#ifndef PARLEY_WEBSOCKET_H
#define PARLEY_WEBSOCKET_H

#include "turns.h"

static void add_pending(Engine *engine, uint32_t number, int32_t job, int64_t due) {
    Connection *connection = &engine->connections[number];
    if (engine->pending_free < 0) {
        int32_t room = engine->pending_room ? engine->pending_room * 2 : 4096;
        engine->pendings = must(realloc(engine->pendings, (size_t)room * sizeof(Pending)));
        for (int32_t at = engine->pending_room; at < room; at++)
            engine->pendings[at].next = at + 1 < room ? at + 1 : -1;
        engine->pending_free = engine->pending_room;
        engine->pending_room = room;
    }
    int32_t which = engine->pending_free;
    Pending *pending = &engine->pendings[which];
    engine->pending_free = pending->next;
    *pending = (Pending){due, -1, job};
    if (connection->pending_last < 0) connection->pending = which;
    else engine->pendings[connection->pending_last].next = which;
    connection->pending_last = which;
}

static int is_answer(const Job *job, const uint8_t *bytes, uint32_t length) {
    return length >= job->answer.length && !memcmp(bytes, job->answer.bytes, job->answer.length);
}

/* The oldest that waits on the connection, where the frame is an answer to it. */
static void take_answer(Engine *engine, Connection *connection, const uint8_t *bytes, uint32_t length) {
    int32_t which = connection->pending;
    if (which < 0) return;
    Pending *pending = &engine->pendings[which];
    Job *job = pending->job < 0 ? NULL : &engine->jobs[pending->job];
    if (job && !is_answer(job, bytes, length)) return;
    if (job) {
        job->active--;
        engine->told.answered++;
        record(engine, H_ANSWER, engine->now - pending->due);
    } else {
        engine->told.late_answers++;
    }
    connection->pending = pending->next;
    if (pending->next < 0) connection->pending_last = -1;
    pending->next = engine->pending_free;
    engine->pending_free = which;
}

static void take_stamp(Engine *engine, const uint8_t *bytes, uint32_t length) {
    const uint8_t *at = memmem(bytes, length, engine->marker.bytes, engine->marker.length);
    if (!at || (at += engine->marker.length) + STAMP_DIGITS > bytes + length) return;
    int64_t stamp = 0;
    for (int digit = 0; digit < STAMP_DIGITS; digit++) stamp = stamp * 10 + (at[digit] - '0');
    record(engine, H_STAMPED, engine->now - (stamp - STAMP_BASE));
}

/* Whether the connection goes on. */
static int take_message(Engine *engine, uint32_t number, uint8_t opcode, const uint8_t *bytes, uint32_t length) {
    Connection *connection = &engine->connections[number];
    connection->frames++;
    engine->told.frames_in++;
    switch (opcode) {
    case 1:
        if (engine->marker.length) take_stamp(engine, bytes, length);
        take_frame(engine, number, bytes, length);
        if (connection->pending >= 0) take_answer(engine, connection, bytes, length);
        break;
    case 2:
        break;
    case 8: {
        int code = length >= 2 ? bytes[0] << 8 | bytes[1] : 1005;
        if (connection->state != CLOSING) put_frame(engine, number, 8, bytes, length < 2 ? 0 : 2);
        lose(engine, number, code, 0);
        break;
    }
    case 9:
        engine->told.pings++;
        put_frame(engine, number, 10, bytes, length);
        break;
    case 10:
        break;
    case 0:
        engine->told.fragments++;
        break;
    default:
        engine->told.wrong_frames++;
    }
    return connection->fd >= 0;
}

/* Takes whole frames; returns how many bytes, or -1 where the connection ended. */
static int64_t take_frames(Engine *engine, uint32_t number, const uint8_t *bytes, uint32_t length) {
    uint32_t at = 0;
    while (length - at >= 2) {
        const uint8_t *frame = bytes + at;
        uint64_t size = frame[1] & 127;
        uint32_t head = 2;
        if (frame[1] & 0x80) engine->told.wrong_frames++;
        if (size == 126) {
            if (length - at < 4) break;
            size = (uint64_t)frame[2] << 8 | frame[3];
            head = 4;
        } else if (size == 127) {
            if (length - at < 10) break;
            size = 0;
            for (int byte = 2; byte < 10; byte++) size = size << 8 | frame[byte];
            head = 10;
        }
        if (size > 1 << 26) {
            engine->told.wrong_frames++;
            lose(engine, number, 1009, 0);
            return -1;
        }
        if (length - at - head < size) break;
        at += head + (uint32_t)size;
        if (!take_message(engine, number, frame[0] & 15, frame + head, (uint32_t)size)) return -1;
    }
    return at;
}

#endif
