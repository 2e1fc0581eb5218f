/* Jobs: what is due is begun, however late and however much has not ended yet. */
#ifndef PARLEY_JOBS_H
#define PARLEY_JOBS_H

#include "http.h"

static int32_t new_job(Engine *engine, uint8_t kind, uint64_t count, double rate, uint64_t at_once, int64_t begin) {
    for (int32_t which = 0; which < JOBS; which++) {
        Job *job = &engine->jobs[which];
        if (job->used && !job->done) continue;
        free(job->numbers);
        free(job->frame);
        free(job->requests);
        free(job->classes);
        memset(job, 0, sizeof *job);
        job->used = 1;
        job->kind = kind;
        job->count = count;
        job->at_once = at_once;
        job->interval = rate > 0 ? (double)SECOND / rate : 0;
        job->begin = begin;
        job->next_due = (double)begin;
        job->done = count == 0;
        return which;
    }
    return -1;
}

/* An open connection of the job's, or one with a socket for raw bytes; -1 for none. */
static int64_t pick(Engine *engine, Job *job) {
    for (uint32_t trial = 0; trial < job->number_count; trial++) {
        uint32_t at = job->in_turn || trial > 64 ? job->cursor++ % job->number_count
                                                 : (uint32_t)(draw(engine) % job->number_count);
        Connection *connection = &engine->connections[job->numbers[at]];
        if (connection->state == OPEN || (job->raw && connection->fd >= 0)) return job->numbers[at];
    }
    return -1;
}

static void stamp(Job *job, int64_t due) {
    uint8_t *key = job->frame + job->header - 4, *payload = job->frame + job->header;
    int64_t number = STAMP_BASE + due;
    for (int digit = STAMP_DIGITS - 1; digit >= 0; digit--, number /= 10) {
        uint32_t at = (uint32_t)(job->stamp_at + digit);
        payload[at] = (uint8_t)('0' + number % 10) ^ (job->raw ? 0 : key[at & 3]);
    }
}

static void fire_send(Engine *engine, int32_t which, int64_t due) {
    Job *job = &engine->jobs[which];
    int64_t number = pick(engine, job);
    if (number < 0) {
        engine->told.nowhere++;
        return;
    }
    if (job->stamp_at >= 0) stamp(job, due);
    if (!put(engine, (uint32_t)number, job->frame, job->frame_length)) {
        if (job->waits) engine->told.unanswered++;
        return;
    }
    engine->told.sent++;
    engine->told.frames_out += !job->raw;
    if (!job->waits) return;
    job->active++;
    add_pending(engine, (uint32_t)number, which, due);
}

static void fire_opening(Engine *engine, int32_t which, int64_t due) {
    Job *job = &engine->jobs[which];
    uint32_t number = (uint32_t)job->numbers[job->fired];
    Connection *connection = &engine->connections[number];
    if (connection->fd >= 0 || connection->job >= 0) return;
    connection->due = due;
    connection->lost_at = 0;
    connection->attempt = 0;
    connection->target = -1;
    connection->job = which;
    connection->timer++; /* no older timer counts */
    job->active++;
    begin_connecting(engine, number);
}

static void fire_turn(Engine *engine, int32_t which, int64_t due) {
    Job *job = &engine->jobs[which];
    int32_t turn = job->first_turn + (int32_t)job->fired;
    engine->turns[turn].due = due;
    engine->turns[turn].job = which;
    job->active++;
    begin_turn(engine, turn);
}

static int free_for_request(Connection *connection) {
    return connection->request_job < 0 && connection->job < 0 && connection->state != CLOSING;
}

/* Whether a connection was free. */
static int fire_request(Engine *engine, int32_t which, int64_t due) {
    Job *job = &engine->jobs[which];
    if (job->blocked && job->seen_free == engine->http_freed) return 0;
    job->seen_free = engine->http_freed;
    for (uint32_t trial = 0; trial < job->number_count; trial++) {
        uint32_t number = (uint32_t)job->numbers[job->cursor++ % job->number_count];
        if (!free_for_request(&engine->connections[number])) continue;
        uint32_t piece = (uint32_t)(job->fired % job->request_count);
        job->active++;
        begin_request(engine, number, which, job->requests[piece], job->classes[piece], due);
        return 1;
    }
    return 0;
}

static int fire(Engine *engine, int32_t which, int64_t due) {
    switch (engine->jobs[which].kind) {
    case OPENING: fire_opening(engine, which, due); return 1;
    case SENDING: fire_send(engine, which, due); return 1;
    case TURNS: fire_turn(engine, which, due); return 1;
    default: return fire_request(engine, which, due);
    }
}

static int has_room(const Job *job) {
    return job->fired < job->count && (!job->at_once || job->active < job->at_once);
}

static void fire_due(Engine *engine, int32_t which) {
    Job *job = &engine->jobs[which];
    for (int pieces = 0; pieces < PIECES_AT_ONCE; pieces++) {
        if (!has_room(job)) {
            job->blocked = job->fired < job->count;
            return;
        }
        int64_t due = job->interval > 0 ? (int64_t)job->next_due : engine->now;
        if (due > engine->now || job->begin > engine->now) {
            job->blocked = 0;
            return;
        }
        if (!fire(engine, which, due)) {
            job->blocked = 1;
            return;
        }
        if (job->blocked) job->blocked = 0, job->room_since = engine->now;
        if (job->interval > 0) {
            int64_t could = due > job->room_since ? due : job->room_since;
            record(engine, H_LATE, engine->now > could ? engine->now - could : 0);
            job->next_due += job->poisson ? -log(draw_unit(engine)) * job->interval : job->interval;
        }
        job->last_due = due;
        job->fired++;
        engine->now = monotonic();
    }
}

/* Answers that are not waited for any longer. */
static void give_up_answers(Engine *engine, int32_t which) {
    for (uint32_t number = 0; number < engine->count; number++)
        for (int32_t at = engine->connections[number].pending; at >= 0; at = engine->pendings[at].next)
            if (engine->pendings[at].job == which) engine->pendings[at].job = -1;
    engine->told.unanswered += engine->jobs[which].active;
    engine->jobs[which].active = 0;
}

static void check_job(Engine *engine, int32_t which) {
    Job *job = &engine->jobs[which];
    if (job->kind == TURNS)
        for (; (uint64_t)(job->expire - job->first_turn) < job->fired; job->expire++) {
            Turn *turn = &engine->turns[job->expire];
            if (turn->state < DONE && turn->due + job->timeout > engine->now) break;
            end_turn(engine, job->expire, TIMED_OUT);
        }
    if (job->kind == SENDING && job->active && engine->now > job->last_due + job->timeout) give_up_answers(engine, which);
}

/* Whether all jobs are done. */
static int fire_jobs(Engine *engine, int check) {
    int done = 1;
    for (int32_t which = 0; which < JOBS; which++) {
        Job *job = &engine->jobs[which];
        if (!job->used || job->done) continue;
        if (job->fired < job->count) fire_due(engine, which);
        if (check) check_job(engine, which);
        job->done = job->fired >= job->count && !job->active;
        done &= job->done;
    }
    return done;
}

/* When the next piece is due; `engine->now` where one is. */
static int64_t next_piece(Engine *engine) {
    int64_t next = INT64_MAX;
    for (int which = 0; which < JOBS; which++) {
        Job *job = &engine->jobs[which];
        if (!job->used || job->done || !has_room(job)) continue;
        if (job->blocked && job->kind == REQUESTS && job->seen_free == engine->http_freed) continue;
        int64_t due = job->interval > 0 ? (int64_t)job->next_due : job->begin;
        if (due < next) next = due;
    }
    return next;
}

#endif
