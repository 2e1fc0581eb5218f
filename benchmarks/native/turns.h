/* Turns over WebSockets: the frames of docs/protocol.md as core/model.py writes them (its order of fields). */
#ifndef PARLEY_TURNS_H
#define PARLEY_TURNS_H

#include "opening.h"

#define FNV_BASE 14695981039346656037ULL
#define FNV_PRIME 1099511628211ULL

static const struct { const char *name; int length; } FRAME_NAMES[FRAME_OTHER] = {
    {"welcome", 7}, {"accepted", 8}, {"queued", 6}, {"resumed", 7}, {"delta", 5}, {"snapshot", 8}, {"restart", 7},
    {"done", 4}, {"cancelled", 9}, {"interrupted", 11}, {"failed", 6}, {"error", 5}, {"notice", 6}, {"event", 5},
    {"pong", 4}, {"drain", 5},
};

typedef struct { /* the rest of a frame that is read from left to right */
    const uint8_t *at, *end;
} Reader;

static int frame_type(Reader *reader) {
    if (reader->end - reader->at < 12 || memcmp(reader->at, "{\"type\":\"", 9)) return FRAME_OTHER;
    const uint8_t *name = reader->at + 9;
    for (int type = 0; type < FRAME_OTHER; type++) {
        int length = FRAME_NAMES[type].length;
        if (reader->end - name > length && name[length] == '"' && !memcmp(name, FRAME_NAMES[type].name, (size_t)length)) {
            reader->at = name + length + 1;
            return type;
        }
    }
    return FRAME_OTHER;
}

/* Moves behind the next `field` (with quotes and colon); whether there is one. */
static int skip_to(Reader *reader, const char *field) {
    size_t length = strlen(field);
    const uint8_t *found = memmem(reader->at, (size_t)(reader->end - reader->at), field, length);
    if (!found) return 0;
    reader->at = found + length;
    return 1;
}

static int64_t take_number(Reader *reader) {
    int64_t sign = 1, number = 0;
    if (reader->at < reader->end && *reader->at == '-') sign = -1, reader->at++;
    for (; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++)
        number = number * 10 + *reader->at - '0';
    return sign * number;
}

/* The text up to its closing quote, as it stands in the JSON, behind an opening one. */
static Span take_text(Reader *reader) {
    const uint8_t *from = reader->at;
    for (; reader->at < reader->end && *reader->at != '"'; reader->at++)
        if (*reader->at == '\\') reader->at++;
    if (reader->at > reader->end) reader->at = reader->end;
    Span text = {from, (uint32_t)(reader->at - from)};
    if (reader->at < reader->end) reader->at++;
    return text;
}

static void copy_text(char *to, uint32_t room, Span text) {
    uint32_t length = text.length < room - 1 ? text.length : room - 1;
    memcpy(to, text.bytes, length);
    to[length] = 0;
}

/* Whether the frame is of the turn, by `field` that holds its generation. */
static int is_of(Reader *reader, const char *field, const Turn *turn) {
    if (!skip_to(reader, field)) return 0;
    Span id = take_text(reader);
    return id.length < ID_BYTES && turn->generation[id.length] == 0 && !memcmp(turn->generation, id.bytes, id.length) &&
           id.length;
}

static void new_text(Turn *turn, int64_t epoch) {
    turn->epoch = epoch;
    turn->seq = -1;
    turn->chars = 0;
    turn->fnv = FNV_BASE;
}

static void append_text(Turn *turn, Span text) {
    uint64_t fnv = turn->fnv;
    for (uint32_t at = 0; at < text.length; at++) fnv = (fnv ^ text.bytes[at]) * FNV_PRIME;
    turn->fnv = fnv;
    turn->chars += text.length;
}

/* --- sending ----------------------------------------------------------------------------------------------------- */

static void resume_turn(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    int32_t which = connection->turn >= 0 ? connection->turn : connection->last_turn;
    if (which < 0) return;
    Turn *turn = &engine->turns[which];
    char frame[ID_BYTES + 96];
    if (turn->state == SENT) {
        put_frame(engine, number, 1, turn->frame.bytes, turn->frame.length);
    } else if (turn->generation[0]) {
        int length = snprintf(frame, sizeof frame, "{\"type\":\"resume\",\"generation_id\":\"%s\",\"epoch\":%lld,\"seq\":%lld}",
                              turn->generation, (long long)turn->epoch, (long long)turn->seq);
        put_frame(engine, number, 1, (uint8_t *)frame, (uint32_t)length);
    }
}

/* Sends the turn at the head of the connection's queue, if it is open. */
static void next_turn(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    if (connection->turn < 0 || connection->state != OPEN) return;
    Turn *turn = &engine->turns[connection->turn];
    turn->state = SENT;
    put_frame(engine, number, 1, turn->frame.bytes, turn->frame.length);
}

static void end_turn(Engine *engine, int32_t which, int state) {
    Turn *turn = &engine->turns[which];
    if (turn->state >= DONE) return;
    turn->state = (uint8_t)state;
    engine->told.ends[state]++;
    if (turn->job >= 0) engine->jobs[turn->job].active--;
    turn->job = -1;
    turn->frame.length = 0;
    Connection *connection = &engine->connections[turn->connection];
    if (connection->turn != which) return; /* it waited behind another: it is passed over there */
    do {
        connection->last_turn = connection->turn;
        connection->turn = engine->turns[connection->turn].next;
    } while (connection->turn >= 0 && engine->turns[connection->turn].state >= DONE);
    if (connection->turn < 0) connection->turn_last = -1;
    else next_turn(engine, (uint32_t)turn->connection);
}

static void lose_turns(Engine *engine, uint32_t number) {
    Connection *connection = &engine->connections[number];
    while (connection->turn >= 0) end_turn(engine, connection->turn, LOST);
}

/* A turn is due on a connection: at the end of what is under way there. */
static void begin_turn(Engine *engine, int32_t which) {
    Turn *turn = &engine->turns[which];
    Connection *connection = &engine->connections[turn->connection];
    int coming = connection->state < OPEN && (connection->state != IDLE || connection->lost_at || connection->job >= 0);
    if (connection->state != OPEN && !coming) {
        end_turn(engine, which, LOST);
        return;
    }
    if (connection->turn >= 0) {
        engine->turns[connection->turn_last].next = which;
        connection->turn_last = which;
        return;
    }
    connection->turn = connection->turn_last = which;
    next_turn(engine, (uint32_t)turn->connection);
}

/* --- what comes -------------------------------------------------------------------------------------------------- */

static void take_delta(Engine *engine, Turn *turn, Reader *reader) {
    if (!is_of(reader, "\"g\":\"", turn) || !skip_to(reader, "\"e\":")) {
        engine->told.foreign++;
        return;
    }
    int64_t epoch = take_number(reader), n = skip_to(reader, "\"n\":") ? take_number(reader) : -1;
    Span text = skip_to(reader, "\"d\":\"") ? take_text(reader) : (Span){reader->at, 0};
    Reader rest = *reader;
    if (epoch < turn->epoch) return;
    if (epoch > turn->epoch) new_text(turn, epoch);
    if (n <= turn->seq) {
        turn->repeats++;
        engine->told.repeats++;
        return;
    }
    if (n > turn->seq + 1) {
        turn->jumps++;
        engine->told.jumps++;
    }
    turn->seq = n;
    turn->deltas++;
    engine->told.deltas++;
    if (!skip_to(&rest, "\"k\":\"") || (rest.end - rest.at > 5 && !memcmp(rest.at, "text\"", 5))) append_text(turn, text);
    if (!turn->shown) {
        turn->shown = 1;
        record(engine, H_FIRST, engine->now - turn->due);
    }
}

static void take_snapshot(Engine *engine, Turn *turn, Reader *reader) {
    int64_t epoch = skip_to(reader, "\"epoch\":") ? take_number(reader) : 0;
    int64_t seq = skip_to(reader, "\"seq\":") ? take_number(reader) : -1;
    int64_t at = skip_to(reader, "\"at\":") ? take_number(reader) : 0;
    if (at == 0) new_text(turn, epoch);
    while (skip_to(reader, "\"k\":\"")) {
        Span kind = take_text(reader);
        Span text = skip_to(reader, "\"d\":\"") ? take_text(reader) : (Span){reader->at, 0};
        if (kind.length == 4 && !memcmp(kind.bytes, "text", 4)) append_text(turn, text);
    }
    turn->seq = seq;
    turn->snapshots++;
    engine->told.snapshots++;
}

static void take_end(Engine *engine, int32_t which, int type, Reader *reader) {
    Turn *turn = &engine->turns[which];
    int64_t epoch = skip_to(reader, "\"epoch\":") ? take_number(reader) : 0;
    int64_t seq = skip_to(reader, "\"seq\":") ? take_number(reader) : -1;
    if (seq >= 0 && (epoch != turn->epoch || seq != turn->seq)) {
        turn->holes = 1;
        engine->told.holes++;
    }
    if (type == FRAME_FAILED && skip_to(reader, "\"code\":\"")) copy_text(turn->code, sizeof turn->code, take_text(reader));
    record(engine, H_END, engine->now - turn->due);
    end_turn(engine, which, DONE + type - FRAME_DONE);
}

static void count_error(Engine *engine, Span code, const uint8_t *frame, uint32_t length) {
    Statistics *told = &engine->told;
    for (uint32_t kind = 0; kind < KINDS_OF_ERROR; kind++) {
        if (kind == told->error_kinds) {
            told->error_kinds++;
            copy_text(told->errors[kind].code, sizeof told->errors[kind].code, code);
            copy_text(told->errors[kind].sample, SAMPLE_BYTES, (Span){frame, length});
        }
        if (strlen(told->errors[kind].code) == code.length && !memcmp(told->errors[kind].code, code.bytes, code.length)) {
            told->errors[kind].count++;
            return;
        }
    }
}

static void take_error(Engine *engine, Connection *connection, Reader *reader, const uint8_t *frame, uint32_t length) {
    Span code = skip_to(reader, "\"code\":\"") ? take_text(reader) : (Span){reader->at, 0};
    count_error(engine, code, frame, length);
    if (connection->turn < 0) return;
    Turn *turn = &engine->turns[connection->turn];
    copy_text(turn->code, sizeof turn->code, code);
    if (turn->state == SENT) end_turn(engine, connection->turn, ERROR);
}

static void take_accepted(Engine *engine, Turn *turn, Reader *reader) {
    if (!skip_to(reader, "\"generation_id\":\"")) return;
    Span id = take_text(reader);
    if (skip_to(reader, "\"duplicate\":true")) engine->told.duplicates++;
    if (turn->state != SENT) return;
    copy_text(turn->generation, ID_BYTES, id);
    turn->state = ACCEPTED;
    record(engine, H_ACCEPTED, engine->now - turn->due);
}

static void drain_told(Engine *engine, uint32_t number, Reader *reader) {
    if (!engine->back_count || !engine->back_drain || !skip_to(reader, "\"reconnect_after_ms\":")) return;
    set_timer(engine, number, engine->now + take_number(reader) * MS);
}

static void take_back(Engine *engine, Connection *connection) { /* `resumed` or `snapshot` has come */
    if (!connection->lost_at) return;
    record(engine, H_RESUMED, engine->now - connection->lost_at);
    connection->lost_at = 0;
}

static void take_frame(Engine *engine, uint32_t number, const uint8_t *bytes, uint32_t length) {
    Connection *connection = &engine->connections[number];
    Reader reader = {bytes, bytes + length};
    int type = frame_type(&reader);
    engine->told.types[type]++;
    if (type == FRAME_DRAIN) drain_told(engine, number, &reader);
    if (type == FRAME_ERROR) take_error(engine, connection, &reader, bytes, length);
    int32_t which = connection->turn;
    if (which < 0) return;
    Turn *turn = &engine->turns[which];
    switch (type) {
    case FRAME_DELTA:
        take_delta(engine, turn, &reader);
        break;
    case FRAME_ACCEPTED:
        take_accepted(engine, turn, &reader);
        break;
    case FRAME_SNAPSHOT:
    case FRAME_RESUMED:
    case FRAME_RESTART:
    case FRAME_DONE:
    case FRAME_CANCELLED:
    case FRAME_INTERRUPTED:
    case FRAME_FAILED:
        if (!is_of(&reader, "\"generation_id\":\"", turn)) engine->told.foreign++;
        else if (type >= FRAME_DONE) take_end(engine, which, type, &reader);
        else if (type != FRAME_RESTART) {
            take_back(engine, connection);
            if (type == FRAME_SNAPSHOT) take_snapshot(engine, turn, &reader);
        } else {
            engine->told.restarts++;
            if (skip_to(&reader, "\"epoch\":")) new_text(turn, take_number(&reader));
        }
        break;
    default:
        break;
    }
}

#endif
