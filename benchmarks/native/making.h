/* What is done from outside a run: connections, groups, jobs and the engine itself are made and ended. */
#ifndef PARLEY_MAKING_H
#define PARLEY_MAKING_H

#include "loop.h"

enum { END_CLOSE, END_FIN, END_RST, END_HALF, END_MID_FRAME, END_ABANDON };

static void end_connection(Engine *engine, uint32_t number, int how) {
    Connection *connection = &engine->connections[number];
    const uint8_t normal[2] = {1000 >> 8, 1000 & 255};
    const struct linger reset = {1, 0};
    connection->timer++; /* it does not come back, nor try again */
    if (connection->fd < 0) {
        if (connection->state == IDLE && connection->attempt) fail_opening(engine, number, 0, -1);
        return;
    }
    int unopened = connection->state == CONNECTING || connection->state == HANDSHAKE;
    connection->leaving = GONE_FOR_GOOD;
    if (how == END_HALF) {
        shutdown(connection->fd, SHUT_WR);
        return;
    }
    if (how == END_CLOSE && connection->state == OPEN && connection->kind == WEBSOCKET) {
        put_frame(engine, number, 8, normal, 2);
        connection->state = CLOSING;
        engine->deadlines[number] = monotonic() + CLOSE_WAIT;
        return;
    }
    if (how == END_MID_FRAME || how == END_ABANDON)
        put(engine, number, (const uint8_t *)"\x81\xfe\x04\x00\x01\x02\x03\x04half of a", 17);
    if (how == END_RST || how == END_ABANDON)
        setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (unopened) fail_opening(engine, number, 0, -1);
    else lose(engine, number, 1006, 0);
}

static void read_on(Engine *engine, uint32_t number) {
    engine->connections[number].deaf = 0;
    if (engine->connections[number].fd >= 0) read_again(engine, number);
}

/* Drops all jobs and what they wait for. */
static void cancel_jobs(Engine *engine) {
    for (int32_t which = 0; which < JOBS; which++) {
        Job *job = &engine->jobs[which];
        if (!job->used || job->done) continue;
        job->count = job->fired;
        if (job->kind == SENDING) give_up_answers(engine, which);
        if (job->kind == TURNS)
            for (int32_t turn = job->first_turn; turn < job->first_turn + (int32_t)job->fired; turn++)
                end_turn(engine, turn, LOST);
        job->done = 1;
    }
    for (uint32_t number = 0; number < engine->count; number++) {
        Connection *connection = &engine->connections[number];
        if (connection->job >= 0) {
            forget_file(engine, number);
            connection->job = -1;
            connection->state = CLOSED;
            connection->timer++;
        }
        if (connection->kind == HTTP && connection->request_job >= 0) {
            connection->request_job = -1;
            if (connection->fd >= 0) lose(engine, number, 1006, 0);
        }
    }
}

static void make_engine(Engine *engine, uint32_t capacity, uint64_t seed) {
    memset(engine, 0, sizeof *engine);
    engine->capacity = capacity;
    engine->connections = must(calloc(capacity, sizeof(Connection)));
    engine->deadlines = must(calloc(capacity, sizeof(int64_t)));
    engine->again = must(calloc(2 * (size_t)capacity, sizeof(int32_t)));
    engine->pending_free = -1;
    engine->random = seed;
    engine->attempts = 1;
    engine->epoll = epoll_create1(EPOLL_CLOEXEC);
    prctl(PR_SET_TIMERSLACK, 1); /* else every wait for a due moment ends up to 50 us late */
}

static void add_connection(Engine *engine, uint32_t group) {
    Connection *connection = &engine->connections[engine->count++];
    connection->fd = connection->target = connection->job = connection->request_job = -1;
    connection->pending = connection->pending_last = connection->turn = connection->turn_last = -1;
    connection->last_turn = -1;
    connection->group = group;
    connection->kind = engine->groups[group].kind;
}

static Group *add_group(Engine *engine, uint32_t targets, uint32_t sources, uint32_t requests) {
    if (engine->group_count == engine->group_room) {
        engine->group_room = engine->group_room ? engine->group_room * 2 : 16;
        engine->groups = must(realloc(engine->groups, engine->group_room * sizeof(Group)));
    }
    Group *group = &engine->groups[engine->group_count++];
    memset(group, 0, sizeof *group);
    group->targets = must(calloc(targets, sizeof *group->targets));
    group->sources = must(calloc(sources + 1, sizeof *group->sources));
    group->requests = must(calloc(requests, sizeof *group->requests));
    group->target_count = targets;
    group->source_count = sources;
    group->request_count = requests;
    group->first = engine->count;
    return group;
}

static void add_turn(Engine *engine, Span frame, int32_t connection) {
    if (engine->turn_count == engine->turn_room) {
        engine->turn_room = engine->turn_room ? engine->turn_room * 2 : 1024;
        engine->turns = must(realloc(engine->turns, (size_t)engine->turn_room * sizeof(Turn)));
    }
    Turn *turn = &engine->turns[engine->turn_count++];
    memset(turn, 0, sizeof *turn);
    turn->frame = frame;
    turn->connection = connection;
    turn->next = turn->job = -1;
    new_text(turn, 0);
}

static void clear_told(Engine *engine) {
    memset(&engine->told, 0, sizeof engine->told);
    for (int which = 0; which < HISTOGRAMS; which++) histogram_clear(&engine->histograms[which]);
}

static void unmake_engine(Engine *engine) {
    for (uint32_t number = 0; number < engine->count; number++) {
        Connection *connection = &engine->connections[number];
        if (connection->fd >= 0) close(connection->fd);
        free(connection->in);
        free(connection->out);
    }
    for (int which = 0; which < JOBS; which++) {
        free(engine->jobs[which].numbers);
        free(engine->jobs[which].frame);
        free(engine->jobs[which].requests);
        free(engine->jobs[which].classes);
    }
    for (uint32_t group = 0; group < engine->group_count; group++) {
        free(engine->groups[group].targets);
        free(engine->groups[group].sources);
        free(engine->groups[group].requests);
    }
    clear_told(engine);
    free(engine->connections);
    free(engine->deadlines);
    free(engine->again);
    free(engine->groups);
    free(engine->pendings);
    free(engine->turns);
    free(engine->timers);
    free(engine->buffer);
    free(engine->back);
    if (engine->epoll >= 0) close(engine->epoll);
    memset(engine, 0, sizeof *engine);
    engine->epoll = -1;
}

#endif
