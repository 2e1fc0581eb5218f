/* The cheapest server that the engine can be held against: it answers every upgrade with the same words, sends every
   text frame back, and pushes frames where a text asks for it: "push COUNT BURST SIZE" (BURST frames in each write). */
#ifndef PARLEY_FLOOR_H
#define PARLEY_FLOOR_H

#include <poll.h>

#include "making.h"

#define FLOOR_FILES 65536

typedef struct {
    uint8_t *rest, *burst; /* what is incomplete; BURST frames, while some are to be pushed */
    uint32_t rest_length, burst_frames, frame_length;
    int64_t left;
    uint8_t used, upgraded;
} Client;

typedef struct {
    int epoll, listening;
    Span answer; /* 101 and its headers */
    Client clients[FLOOR_FILES];
    int pushing[FLOOR_FILES];
    int pushing_count;
    uint8_t buffer[2 * BUFFER], out[2 * BUFFER];
} Floor;

static void floor_forget(Floor *floor, int fd) {
    Client *client = &floor->clients[fd];
    free(client->rest);
    free(client->burst);
    memset(client, 0, sizeof *client);
    for (int at = 0; at < floor->pushing_count; at++)
        if (floor->pushing[at] == fd) floor->pushing[at--] = floor->pushing[--floor->pushing_count];
    close(fd);
}

/* Sends all of it, however long the client takes to read; whether it is still there. */
static int floor_put(Floor *floor, int fd, const uint8_t *bytes, uint32_t length) {
    while (length) {
        ssize_t took = send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (took < 0) {
            struct pollfd ready = {fd, POLLOUT, 0};
            if (errno != EAGAIN || poll(&ready, 1, 5000) <= 0) {
                floor_forget(floor, fd);
                return 0;
            }
            continue;
        }
        bytes += took;
        length -= (uint32_t)took;
    }
    return 1;
}

static uint32_t floor_frame(uint8_t *to, const uint8_t *payload, uint32_t length, uint8_t opcode) {
    uint32_t head = length < 126 ? 2 : 4;
    to[0] = 0x80 | opcode;
    to[1] = length < 126 ? (uint8_t)length : 126;
    if (head == 4) to[2] = (uint8_t)(length >> 8), to[3] = (uint8_t)length;
    if (payload) memcpy(to + head, payload, length);
    else memset(to + head, 'x', length);
    return head + length;
}

static void floor_push(Floor *floor, int fd, const char *asked) {
    Client *client = &floor->clients[fd];
    unsigned count = 0, burst = 0, size = 0;
    if (sscanf(asked, "push %u %u %u", &count, &burst, &size) != 3 || !burst || size > 4096 || burst > 64) return;
    free(client->burst);
    client->burst = must(malloc((size_t)burst * (size + 4)));
    client->burst_frames = burst;
    client->left = count;
    client->frame_length = 0;
    for (unsigned nth = 0; nth < burst; nth++)
        client->frame_length = floor_frame(client->burst + nth * client->frame_length, NULL, size, 1);
    floor->pushing[floor->pushing_count++] = fd;
}

/* Answers the whole frames (clients of ours send less than 64 KiB); returns how many bytes they were, -1 at the end. */
static int64_t floor_frames(Floor *floor, int fd, uint8_t *bytes, uint32_t length) {
    uint32_t at = 0, out = 0;
    char asked[64];
    while (length - at >= 6) {
        uint8_t *frame = bytes + at;
        uint32_t size = frame[1] & 127, head = 6;
        if (size == 126) size = (uint32_t)(frame[2] << 8 | frame[3]), head = 8;
        if (length - at < head + size) break;
        uint8_t *payload = frame + head;
        xor_key(payload, payload, size, payload - 4);
        if (size > 5 && size < sizeof asked && !memcmp(payload, "push ", 5)) {
            memcpy(asked, payload, size);
            asked[size] = 0;
            floor_push(floor, fd, asked);
        } else {
            if (out + size + 4 > sizeof floor->out) {
                if (!floor_put(floor, fd, floor->out, out)) return -1;
                out = 0;
            }
            out += floor_frame(floor->out + out, payload, size, frame[0] & 15);
        }
        at += head + size;
    }
    return !out || floor_put(floor, fd, floor->out, out) ? (int64_t)at : -1;
}

static void floor_read(Floor *floor, int fd) {
    Client *client = &floor->clients[fd];
    uint32_t kept = client->rest_length;
    if (kept) memcpy(floor->buffer, client->rest, kept);
    ssize_t got = recv(fd, floor->buffer + kept, BUFFER, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0 || kept > BUFFER) {
        floor_forget(floor, fd);
        return;
    }
    uint32_t length = kept + (uint32_t)got, at = 0;
    if (!client->upgraded) {
        uint8_t *end = memmem(floor->buffer, length, "\r\n\r\n", 4);
        if (end) {
            if (!floor_put(floor, fd, floor->answer.bytes, floor->answer.length)) return;
            client->upgraded = 1;
            at = (uint32_t)(end - floor->buffer) + 4;
        }
    }
    if (client->upgraded) {
        int64_t took = floor_frames(floor, fd, floor->buffer + at, length - at);
        if (took < 0) return;
        at += (uint32_t)took;
    }
    free(client->rest);
    client->rest_length = length - at;
    client->rest = client->rest_length ? must(malloc(client->rest_length)) : NULL;
    if (client->rest) memcpy(client->rest, floor->buffer + at, client->rest_length);
}

static void floor_accept(Floor *floor) {
    int fd, one = 1;
    while ((fd = accept4(floor->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= FLOOR_FILES) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        floor->clients[fd].used = 1;
        epoll_ctl(floor->epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

/* One write to each client to which something is to be pushed. */
static void floor_push_on(Floor *floor) {
    for (int at = 0; at < floor->pushing_count; at++) {
        int fd = floor->pushing[at];
        Client *client = &floor->clients[fd];
        uint32_t frames = client->left < client->burst_frames ? (uint32_t)client->left : client->burst_frames;
        client->left -= frames;
        if (!floor_put(floor, fd, client->burst, frames * client->frame_length)) return;
        if (!client->left) floor->pushing[at--] = floor->pushing[--floor->pushing_count];
    }
}

/* Serves until something comes on `stop`, or its other side is closed. Whether it could. */
static int floor_serve(int listening, int stop, Span answer) {
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = listening};
    Floor *floor = must(calloc(1, sizeof *floor));
    int over = 0;
    floor->epoll = epoll_create1(EPOLL_CLOEXEC);
    floor->listening = listening;
    floor->answer = answer;
    if (floor->epoll < 0 || epoll_ctl(floor->epoll, EPOLL_CTL_ADD, listening, &event) < 0) over = -1;
    event.data.fd = stop;
    if (!over && epoll_ctl(floor->epoll, EPOLL_CTL_ADD, stop, &event) < 0) over = -1;
    while (!over) {
        int got = epoll_wait(floor->epoll, events, EVENTS, floor->pushing_count ? 0 : 1000);
        for (int at = 0; at < got; at++) {
            int fd = events[at].data.fd;
            if (fd == stop) over = 1;
            else if (fd == listening) floor_accept(floor);
            else if (floor->clients[fd].used) floor_read(floor, fd);
        }
        floor_push_on(floor);
    }
    for (int fd = 0; fd < FLOOR_FILES; fd++)
        if (floor->clients[fd].used) floor_forget(floor, fd);
    if (floor->epoll >= 0) close(floor->epoll);
    free(floor);
    return over > 0;
}

#endif
