/* reader: members of a room, as many as there shall be, in one thread with one epoll set.
 *
 *   cc -O2 -o reader reader.c
 *   reader PORT PATH HEALTHY STALLED
 *
 * HEALTHY connections read whatever comes. STALLED ones have small buffers and read nothing after their handshake until
 * they are told to. Only the loopback is connected to. The frames are a server's, unmasked; each message has its number
 * in its first 8 bytes and the time of its sending (CLOCK_MONOTONIC, nanoseconds) in the next 8, big-endian.
 *
 * Prints "ready" when all are open. Then a line on standard input is a command:
 *   read     the stalled ones read from now on, the first half of them alone if it says "read half"
 *   report   prints a line of JSON: for all healthy ones together, and for each stalled one
 * and the end of standard input is its end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SMALL 4096
#define NONE UINT64_MAX

typedef struct {
    int fd, code, broken, ended;
    uint64_t count, gaps, first, last;
    size_t have, need; /* of the frame under way: bytes seen, bytes in all (0: its header is not whole) */
    uint8_t start[26]; /* its header, and the first 16 bytes of its payload */
} conn;

static conn *conns;
static int ep, healthy, stalled;
static uint8_t buffer[1 << 18];
static uint64_t slowest[64 * 8]; /* latencies in microseconds, eight steps for each power of two */

static void fail(const char *what) {
    fprintf(stderr, "reader: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t big_endian(const uint8_t *at, int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++) value = value << 8 | at[i];
    return value;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int step_of(uint64_t us) {
    if (us < 8) return us;
    int power = 63 - __builtin_clzll(us);
    return (power - 2) * 8 + (us >> (power - 3) & 7);
}

/* where the step ends */
static uint64_t us_of(int step) {
    step++;
    return step < 8 ? step : (8ull + (step & 7)) << ((step >> 3) - 1);
}

static int header_size(const conn *c) {
    int length = c->start[1] & 127;
    return length < 126 ? 2 : length == 126 ? 4 : 10;
}

static void whole_frame(conn *c, uint64_t time) {
    int at = header_size(c);
    size_t payload = c->need - at;
    if (c->start[0] == 0x88) {
        c->code = payload >= 2 ? (int)big_endian(c->start + at, 2) : 1005;
        return;
    }
    if (c->start[0] == 0x89) return; /* a ping */
    if (c->start[0] != 0x82 || payload < 16 || c->code) {
        c->broken = 1;
        return;
    }
    uint64_t number = big_endian(c->start + at, 8), sent = big_endian(c->start + at + 8, 8);
    if (!c->count) c->first = number;
    else if (number <= c->last) c->broken = 1; /* out of order, or twice */
    else if (number != c->last + 1) c->gaps++;
    c->last = number;
    c->count++;
    if (c - conns < healthy) {
        uint64_t us = time > sent ? (time - sent) / 1000 : 0;
        slowest[step_of(us)]++;
    }
}

static void take(conn *c, const uint8_t *data, size_t size, uint64_t time) {
    while (size && !c->broken) {
        size_t want = c->need ? c->need : c->have < 2 ? 2 : (size_t)header_size(c);
        size_t step = want - c->have < size ? want - c->have : size;
        for (size_t i = 0; i < step && c->have + i < sizeof c->start; i++) c->start[c->have + i] = data[i];
        c->have += step, data += step, size -= step;
        if (c->have < want) return;
        if (!c->need && c->have >= 2 && c->have == (size_t)header_size(c)) {
            int head = header_size(c), length = c->start[1] & 127;
            if (c->start[1] & 128) c->broken = 1; /* masked */
            c->need = head + (head == 2 ? (uint64_t)length : big_endian(c->start + 2, head - 2));
        }
        if (c->need && c->have == c->need) {
            whole_frame(c, time);
            c->have = c->need = 0;
        }
    }
}

static void readable(conn *c) {
    ssize_t size = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        c->ended = size < 0 ? 2 : 1;
        close(c->fd);
        c->fd = -1;
        return;
    }
    take(c, buffer, size, now());
}

static void open_one(conn *c, const struct sockaddr_in *to, const char *path, int small) {
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    int size = SMALL;
    if (small) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (connect(c->fd, (const struct sockaddr *)to, sizeof *to)) fail("connect");
    char text[1024];
    int length = snprintf(text, sizeof text,
        "GET %s HTTP/1.1\r\nHost: reader\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path);
    if (send(c->fd, text, length, 0) != length) fail("send");
    for (length = 0; length < 4 || memcmp(text + length - 4, "\r\n\r\n", 4); length++)
        if (length == sizeof text || recv(c->fd, text + length, 1, 0) != 1) fail("handshake");
    if (memcmp(text, "HTTP/1.1 101 ", 13)) fail("handshake");
}

static void watch(conn *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
}

static void report(void) {
    uint64_t fewest = NONE, most = 0, gaps = 0, last = NONE, in_all = 0, latencies = 0;
    int closed = 0, broken = 0, p99 = 0, worst = 0, steps = sizeof slowest / sizeof *slowest;
    for (int i = 0; i < healthy; i++) {
        conn *c = conns + i;
        fewest = c->count < fewest ? c->count : fewest;
        most = c->count > most ? c->count : most;
        last = c->last < last ? c->last : last;
        in_all += c->count, gaps += c->gaps, closed += c->ended || c->code, broken += c->broken;
    }
    for (int i = 0; i < steps; i++) latencies += slowest[i], worst = slowest[i] ? i : worst;
    for (uint64_t seen = 0; p99 < steps && (seen += slowest[p99]) * 100 < latencies * 99;) p99++;
    printf("{\"healthy\": {\"fewest\": %lu, \"most\": %lu, \"count\": %lu, \"gaps\": %lu, \"last\": %lu, \"closed\": %d, "
           "\"broken\": %d, \"p99_us\": %lu, \"worst_us\": %lu}, \"stalled\": [",
           fewest, most, in_all, gaps, last, closed, broken, us_of(p99), us_of(worst));
    for (int i = healthy; i < healthy + stalled; i++) {
        conn *c = conns + i;
        printf("%s{\"count\": %lu, \"gaps\": %lu, \"first\": %lu, \"last\": %lu, \"code\": %d, \"broken\": %d, \"ended\": %d}",
               i > healthy ? ", " : "", c->count, c->gaps, c->first, c->last, c->code, c->broken, c->ended);
    }
    printf("]}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "reader PORT PATH HEALTHY STALLED\n"), 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    healthy = atoi(argv[3]), stalled = atoi(argv[4]);
    int all = healthy + stalled, reading = healthy;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    conns = calloc(all, sizeof *conns);
    ep = epoll_create1(0);
    if (!conns || ep < 0) fail("start");
    for (int i = 0; i < all; i++) {
        open_one(conns + i, &to, argv[2], i >= healthy);
        if (i < healthy) watch(conns + i);
    }
    struct epoll_event events[512], command = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, 0, &command)) fail("standard input");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(ep, events, 512, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            conn *c = events[i].data.ptr;
            if (c) {
                if (c->fd >= 0) readable(c);
                continue;
            }
            char lines[256], *rest;
            ssize_t size = read(0, lines, sizeof lines - 1);
            if (size <= 0) return 0;
            lines[size] = 0;
            for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
                int until = strcmp(line, "read half") ? all : healthy + stalled / 2;
                if (!strcmp(line, "report")) report();
                else if (!strncmp(line, "read", 4)) for (; reading < until; reading++) watch(conns + reading);
                else return fprintf(stderr, "reader: what is %s?\n", line), 2;
            }
        }
    }
}
