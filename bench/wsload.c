/* wsload: a small WebSocket load generator (one thread, one epoll set), for side-by-side measurements.
 *
 *   cc -O2 -o wsload wsload.c
 *   cc -O2 -DWITH_TLS -o wsload-tls wsload.c -lssl -lcrypto      the same, always over TLS; any certificate will do
 *
 *   wsload echo    HOST PORT PATH CONNS SIZE DEPTH SECONDS   each connection keeps DEPTH messages in flight
 *   wsload fanout  HOST PORT PATH CONNS SIZE DEPTH SECONDS   CONNS receivers; the first also publishes, DEPTH in flight
 *   wsload open    HOST PORT PATH CONNS 0 0 SECONDS          opens CONNS connections, then holds them SECONDS
 *   wsload churn   HOST PORT PATH CONNS SIZE 1 SECONDS       connect, one echo, close, again; CONNS at a time
 *   wsload sioecho HOST PORT PATH CONNS SIZE DEPTH SECONDS   Socket.IO v5: event "echo", answered by "echo"
 *   wsload siofan  HOST PORT PATH CONNS SIZE DEPTH SECONDS   Socket.IO v5: all send "join", the first sends
 *     "broadcast", all receive it (PATH as in /socket.io/?EIO=4&transport=websocket)
 *   wsload sioopen HOST PORT PATH CONNS 0 0 SECONDS          "open" with a Socket.IO session on each
 *
 * Prints one JSON line: messages (or deliveries) per second and latency percentiles in microseconds. Messages are
 * binary; each carries its send time in its first 8 bytes (SIZE >= 8). Only loopback addresses are accepted.
 *
 * Counting starts half a second after the load does. With WSLOAD_PIDS=PID[,PID...] in the environment the line also
 * tells, for exactly the counted time: "counted" (messages, deliveries or connections), "server_cpu_s" (CPU seconds
 * that those processes used) and "wrong" (messages whose size or last byte is not what was sent).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum { CONNECTING, HANDSHAKE, OPENING, OPEN, DEAD };

typedef struct {
    int fd, state, index;
    uint8_t *in;
    size_t in_len, in_cap;
    uint8_t *out;
    size_t out_len, out_cap, out_off;
    int want_write;
    int blocked_on_read; /* TLS can't write before it has read */
#ifdef WITH_TLS
    SSL *tls;
#endif
} conn;

static int ep, n_conns, size, depth, n_open, n_dead, mode, sio;
static double seconds;
static struct sockaddr_in addr;
static char request[1024];
static int request_len;
static conn *conns;

/* ---- plain TCP or TLS: the same two calls, with errno EAGAIN when there is nothing to do ---- */

#ifdef WITH_TLS
static SSL_CTX *tls_context;

static void stream_init(void) {
    tls_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_NONE, NULL); /* loopback only: main() sees to it */
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(tls_context, 1); /* one recv a record, not two */
}

static void stream_start(conn *c) {
    c->tls = SSL_new(tls_context);
    SSL_set_fd(c->tls, c->fd);
    SSL_set_connect_state(c->tls);
}

static void stream_close(conn *c) {
    SSL_free(c->tls);
    close(c->fd);
}

static ssize_t tls_result(conn *c, int n, int writing) {
    c->blocked_on_read = 0;
    if (n > 0) return n;
    int error = SSL_get_error(c->tls, n);
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EIO;
    c->blocked_on_read = writing && error == SSL_ERROR_WANT_READ;
    return -1;
}

static ssize_t stream_recv(conn *c, void *p, size_t n) { return tls_result(c, SSL_read(c->tls, p, n), 0); }
static ssize_t stream_send(conn *c, void *p, size_t n) { return tls_result(c, SSL_write(c->tls, p, n), 1); }
static const int drain = 1; /* a short read says nothing: records end where they like */
#else
static void stream_init(void) {}
static void stream_start(conn *c) { (void)c; }
static void stream_close(conn *c) { close(c->fd); }
static ssize_t stream_recv(conn *c, void *p, size_t n) { return recv(c->fd, p, n, 0); }
static ssize_t stream_send(conn *c, void *p, size_t n) { return send(c->fd, p, n, MSG_NOSIGNAL); }
static const int drain = 0;
#endif

/* ---- out ---- */

static void interest(conn *c, int write) {
    if (c->want_write == write) return;
    c->want_write = write;
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static void die(conn *c) {
    if (c->state != DEAD) {
        c->state = DEAD;
        n_dead++;
    }
    epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, 0);
}

static void flush(conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = stream_send(c, c->out + c->out_off, c->out_len - c->out_off);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN) interest(c, !c->blocked_on_read);
            else die(c);
            return;
        }
        c->out_off += n;
    }
    c->out_len = c->out_off = 0;
    interest(c, 0);
}

/* Writes a frame's header with its mask, and returns where the payload belongs. */
static uint8_t *put_header(conn *c, int first_byte, size_t n, const uint8_t mask[4]) {
    grow(&c->out, &c->out_cap, c->out_len + n + 14);
    uint8_t *p = c->out + c->out_len;
    *p++ = first_byte;
    if (n < 126) *p++ = 0x80 | n;
    else if (n < 65536) {
        *p++ = 0x80 | 126;
        *p++ = n >> 8;
        *p++ = n;
    } else {
        *p++ = 0x80 | 127;
        for (int i = 7; i >= 0; i--) *p++ = (uint64_t)n >> (8 * i);
    }
    memcpy(p, mask, 4);
    p += 4;
    c->out_len = p + n - c->out;
    return p;
}

static void put_unmasked(conn *c, int first_byte, const void *payload, size_t n) {
    static const uint8_t zeros[4];
    memcpy(put_header(c, first_byte, n, zeros), payload, n);
}

static void put_text(conn *c, const char *text, size_t n) { put_unmasked(c, 0x81, text, n); }

/* Socket.IO: 42["echo","<16 hex digits of the send time><padding>"] */
static void put_event(conn *c) {
    static char text[65536];
    int n = snprintf(text, sizeof text, "42[\"%s\",\"%016lx", mode == 'f' ? "broadcast" : "echo", (unsigned long)now());
    while (n < size && n < 60000) text[n++] = 'x';
    text[n++] = '"';
    text[n++] = ']';
    put_text(c, text, n);
}

static void put_message(conn *c) {
    if (sio) {
        put_event(c);
        return;
    }
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    uint8_t *p = put_header(c, 0x82, size, mask);
    uint64_t t = now();
    uint8_t head[8];
    memcpy(head, &t, 8);
    for (int i = 0; i < 8 && i < size; i++) p[i] = head[i] ^ mask[i & 3];
    for (int i = 8; i < size; i++) p[i] = 'x' ^ mask[i & 3];
}

/* ---- connections ---- */

static void start(conn *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket", strerror(errno));
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->index >= 20000) { /* many loopback source addresses, so that more than 28k connections fit */
        struct sockaddr_in src = {.sin_family = AF_INET};
        src.sin_addr.s_addr = htonl(0x7f000001u + (uint32_t)(c->index / 20000));
        setsockopt(c->fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
        bind(c->fd, (void *)&src, sizeof src);
    }
    int r = connect(c->fd, (void *)&addr, sizeof addr);
    if (r < 0 && errno != EINPROGRESS) fail("connect", strerror(errno));
    stream_start(c);
    c->state = CONNECTING;
    c->in_len = c->out_len = c->out_off = 0;
    c->want_write = 1;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

static void restart(conn *c) {
    stream_close(c);
    start(c);
}

static void connected(conn *c) {
    int error = 0;
    socklen_t l = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &l);
    if (error) fail("connect", strerror(error));
    c->state = HANDSHAKE;
    grow(&c->out, &c->out_cap, request_len);
    memcpy(c->out, request, request_len);
    c->out_len = request_len;
    c->out_off = 0;
    flush(c);
}

/* True once the response's head has been read and taken off the input. */
static int upgraded(conn *c) {
    uint8_t *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(c->in, "HTTP/1.1 101", 12)) fail("handshake refused", (char *)c->in);
    size_t used = end + 4 - c->in;
    memmove(c->in, c->in + used, c->in_len - used);
    c->in_len -= used;
    c->state = sio ? OPENING : OPEN;
    if (!sio) n_open++;
    if (mode == 'c') {
        put_message(c);
        flush(c);
    }
    return 1;
}

/* ---- in ---- */

static void packet(conn *c, uint8_t *p, size_t n) {
    if (n == 1 && p[0] == '2') {
        put_text(c, "3", 1);
        return;
    }
    if (n && p[0] == '0') {
        put_text(c, "40", 2);
        return;
    }
    if (n > 1 && p[0] == '4' && p[1] == '0') {
        if (mode == 'f') put_text(c, "42[\"join\"]", 10);
        c->state = OPEN;
        n_open++;
        return;
    }
    if (n < 2 || p[0] != '4' || p[1] != '2') return;
    uint8_t *q = memmem(p, n, "\",\"", 3);
    if (!q || p + n - q < 19) return;
    char digits[17];
    memcpy(digits, q + 3, 16);
    digits[16] = 0;
    count(strtoul(digits, 0, 16));
    if (n != (size_t)size + 2 || p[n - 3] != 'x') wrong++;
    if (mode == 'e' || c->index == 0) put_message(c);
}

static void message(conn *c, uint8_t *p, size_t n) {
    if (sio) {
        packet(c, p, n);
        return;
    }
    if (n >= 8) {
        uint64_t t;
        memcpy(&t, p, 8);
        count(t);
    }
    if (n != (size_t)size || (n > 8 && p[n - 1] != 'x')) wrong++;
    if (mode == 'e' || (mode == 'f' && c->index == 0)) put_message(c);
}

/* Takes whole frames off the input. False when the connection was replaced by a new one (churn). */
static int frames(conn *c) {
    size_t at = 0;
    while (c->in_len - at >= 2) {
        uint8_t *p = c->in + at;
        uint64_t len = p[1] & 127;
        size_t h = 2;
        if (len == 126) {
            if (c->in_len - at < 4) break;
            len = p[2] << 8 | p[3];
            h = 4;
        } else if (len == 127) {
            if (c->in_len - at < 10) break;
            len = 0;
            for (int i = 0; i < 8; i++) len = len << 8 | p[2 + i];
            h = 10;
        }
        if (c->in_len - at < h + len) break;
        int op = p[0] & 15;
        if (op == 1 || op == 2) message(c, p + h, len);
        if (op == 9) put_unmasked(c, 0x8a, p + h, len); /* answer a ping */
        at += h + len;
        if (mode == 'c' && (op == 1 || op == 2)) {
            restart(c);
            return 0;
        }
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
    return 1;
}

static void readable(conn *c) {
    for (;;) {
        grow(&c->in, &c->in_cap, c->in_len + READ_SIZE);
        ssize_t n = stream_recv(c, c->in + c->in_len, READ_SIZE);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            die(c);
            return;
        }
        if (n < 0) break;
        c->in_len += n;
        if (c->state == HANDSHAKE && !upgraded(c)) continue;
        if (!frames(c)) return;
        if (n < READ_SIZE && !drain) break;
    }
    if (c->state != DEAD && c->out_len > c->out_off) flush(c);
}

static void pump(uint64_t until) {
    struct epoll_event ev[512];
    for (;;) {
        uint64_t t = now();
        if (t >= until) return;
        int k = epoll_wait(ep, ev, 512, (int)((until - t) / 1000000) + 1);
        for (int i = 0; i < k; i++) {
            conn *c = ev[i].data.ptr;
            if (c->state == CONNECTING && (ev[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
                connected(c);
                continue;
            }
            if (c->state != DEAD && (ev[i].events & EPOLLOUT)) flush(c);
            if (c->state != DEAD && (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) readable(c);
        }
    }
}

/* ---- the modes ---- */

static void open_all(void) {
    for (int i = 0; i < n_conns; i += WAVE) {
        int wave = n_conns - i < WAVE ? n_conns - i : WAVE;
        for (int j = 0; j < wave; j++) {
            conns[i + j].index = i + j;
            start(&conns[i + j]);
        }
        int target = i + wave;
        uint64_t limit = now() + 30000000000ull;
        while (n_open + n_dead < target) {
            pump(now() + 2000000ull);
            if (now() > limit) {
                fprintf(stderr, "only %d of %d opened\n", n_open, target);
                exit(1);
            }
        }
    }
}

static int churn(void) {
    for (int i = 0; i < n_conns; i++) {
        conns[i].index = i;
        start(&conns[i]);
    }
    span s = measure(seconds, pump);
    printf("{\"mode\": \"churn\", \"connections_per_s\": %.0f, \"dead\": %d", counted / s.seconds, n_dead);
    finish_line(s.server_cpu);
    return 0;
}

static int hold(double opened_in) {
    printf("{\"mode\": \"open\", \"open\": %d, \"opens_per_s\": %.0f}\n", n_open, n_open / opened_in);
    fflush(stdout);
    pump(now() + (uint64_t)(seconds * 1e9));
    printf("{\"dead\": %d}\n", n_dead);
    return 0;
}

static void publish(conn *c) {
    for (int d = 0; d < depth; d++) put_message(c);
    flush(c);
}

static int flow(const char *name, double opened_in) {
    if (mode == 'e')
        for (int i = 0; i < n_conns; i++) publish(&conns[i]);
    if (mode == 'f') {
        if (sio) pump(now() + 500000000ull); /* until every join has arrived */
        publish(&conns[0]);
    }
    print_flow("", name, n_conns, size, depth, measure(seconds, pump), n_open / opened_in, n_dead);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 9)
        fail("usage", "wsload echo|fanout|open|churn|sioecho|siofan|sioopen HOST PORT PATH CONNS SIZE DEPTH SECONDS");
    sio = !strncmp(argv[1], "sio", 3);
    mode = argv[1][sio ? 3 : 0];
    addr = prepare(argv[2], argv[3]);
    n_conns = atoi(argv[5]);
    size = atoi(argv[6]);
    depth = atoi(argv[7]);
    seconds = atof(argv[8]);
    if (size < 8) size = 8;
    request_len = snprintf(request, sizeof request,
                           "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                           argv[4], argv[2], argv[3]);
    ep = epoll_create1(0);
    conns = calloc(n_conns, sizeof *conns);
    stream_init();
    if (mode == 'c') return churn();
    uint64_t t0 = now();
    open_all();
    double opened_in = (now() - t0) / 1e9;
    return mode == 'o' ? hold(opened_in) : flow(argv[1], opened_in);
}
