/* pollload: Socket.IO clients on long polling (one thread, one epoll set), for side-by-side measurements.
 *
 *   cc -O2 -o pollload pollload.c
 *
 *   pollload echo HOST PORT PATH CLIENTS SIZE 1 SECONDS   each POSTs the event "echo" and polls for its answer, "echo"
 *   pollload fan  HOST PORT PATH CLIENTS SIZE 1 SECONDS   all POST "join"; the first POSTs "broadcast", all poll for it;
 *     the next one is sent when everyone has it (PATH as in /socket.io/?EIO=4&transport=polling)
 *
 * Each client has one kept-alive connection for its GETs, which are held, and one for its POSTs where it has any while a
 * GET is held. Prints one JSON line as wsload does; see there for WSLOAD_PIDS. Only loopback addresses are accepted.
 *
 * With POLLLOAD_PAGE in the environment the requests are those of a page in Chromium 156, with three cookies. Its value
 * is the Origin of the POSTs: "own" for the server's own, "none" for none.
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

enum { OPENING, CONNECTING_NAMESPACE, AWAITING_CONNECT, JOINING, POLLING };

typedef struct {
    int fd, is_poster;
    struct client *client;
    uint8_t *in;
    size_t in_len, in_cap;
    int busy; /* a request is not answered yet */
} conn;

typedef struct client {
    conn get, post;
    int state, index, ponging;
    char sid[128];
} client;

static int ep, n_clients, size, mode, n_open, n_dead, waiting_for;
static double seconds;
static struct sockaddr_in addr;
static const char *path, *host, *port;
static client *clients;
static char get_fields[4096] = "Accept: */*\r\n", post_fields[4096] = "Content-Type: text/plain;charset=UTF-8\r\n";

/* ---- out: requests are small and one at a time, so that a write never waits ---- */

static void connect_to(conn *c, client *owner, int is_poster) {
    c->client = owner;
    c->is_poster = is_poster;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->fd < 0 || connect(c->fd, (void *)&addr, sizeof addr)) fail("connect", strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

/* The fields of a page's requests, in the order in which Chromium sends them. */
static void as_page(const char *origin) {
    char own[256], line[300] = "";
    snprintf(own, sizeof own, "http://%s:%s", host, port);
    if (!strcmp(origin, "own")) origin = own;
    if (strcmp(origin, "none")) snprintf(line, sizeof line, "Origin: %s\r\n", origin);
    for (int is_post = 0; is_post < 2; is_post++)
        snprintf(is_post ? post_fields : get_fields, sizeof get_fields,
                 "Connection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\n"
                 "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
                 "Chrome/156.0.0.0 Safari/537.36\r\nAccept: */*\r\n"
                 "sec-ch-ua: \"Not:A-Brand\";v=\"8\", \"Chromium\";v=\"156\"\r\n%ssec-ch-ua-mobile: ?0\r\n%s"
                 "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
                 "Referer: %s/page.html\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
                 "Accept-Language: en-US,en;q=0.9\r\nCookie: session=eyJhbGciOiJIUzI1NiJ9.%086d; "
                 "_ga=GA1.1.1234567890.1700000000; csrftoken=%032d\r\n",
                 is_post ? "Content-type: text/plain;charset=UTF-8\r\n" : "", is_post ? line : "", own, 0, 0);
}

static void request(conn *c, const char *body, size_t n) {
    static char text[70000];
    const char *sid = c->client->sid;
    int len = snprintf(text, sizeof text, "%s %s%s%s HTTP/1.1\r\nHost: %s:%s\r\n", body ? "POST" : "GET", path,
                       *sid ? "&sid=" : "", sid, host, port);
    if (body)
        len += snprintf(text + len, sizeof text - len, "%sContent-Length: %zu\r\n\r\n%s", post_fields, n, body);
    else len += snprintf(text + len, sizeof text - len, "%s\r\n", get_fields);
    if (send(c->fd, text, len, MSG_NOSIGNAL) != len) fail("send", strerror(errno));
    c->busy = 1;
}

static void post(conn *c, const char *text) { request(c, text, strlen(text)); }

static void put_event(client *c) {
    static char text[65536];
    int n = snprintf(text, sizeof text, "42[\"%s\",\"%016lx", mode == 'f' ? "broadcast" : "echo", (unsigned long)now());
    while (n < size && n < 60000) text[n++] = 'x';
    memcpy(text + n, "\"]", 3);
    post(&c->post, text);
}

/* ---- in ---- */

static void event(client *c, const char *p, size_t n) {
    char *q = memmem(p, n, "\",\"", 3);
    if (!q || p + n - q < 19) return;
    char digits[17] = {0};
    memcpy(digits, q + 3, 16);
    count(strtoul(digits, 0, 16));
    if (n != (size_t)size + 2 || p[n - 3] != 'x') wrong++;
    waiting_for--;
    if (mode == 'e') put_event(c);
}

static void packets(client *c, const char *p, size_t n) {
    while (n) {
        const char *end = memchr(p, 0x1e, n);
        size_t length = end ? (size_t)(end - p) : n;
        if (length > 1 && p[0] == '4' && p[1] == '2') event(c, p, length);
        else if (length == 1 && p[0] == '2') c->ponging = 1;
        else if (length > 1 && p[0] == '4' && p[1] == '0') c->state = JOINING;
        n -= length + (end ? 1 : 0);
        p += length + (end ? 1 : 0);
    }
}

/* The answer to a GET, or to what opens the session. */
static void polled(client *c, const char *p, size_t n) {
    if (c->state == OPENING) {
        const char *from = memmem(p, n, "\"sid\":\"", 7), *to = from ? memchr(from + 7, '"', n - (from + 7 - p)) : 0;
        if (!to || to - from - 7 >= (long)sizeof c->sid) fail("no session", p);
        memcpy(c->sid, from + 7, to - from - 7);
        c->state = CONNECTING_NAMESPACE;
        post(&c->get, "40");
        return;
    }
    packets(c, p, n);
    if (c->state == JOINING && mode == 'f') {
        post(&c->get, "42[\"join\"]");
        return;
    }
    if (c->state == JOINING) {
        c->state = POLLING;
        n_open++;
    }
    if (c->ponging) post(&c->get, "3");
    else request(&c->get, 0, 0);
}

static void answered(conn *c, const char *body, size_t n) {
    client *owner = c->client;
    c->busy = 0;
    if (c->is_poster) return;
    if (owner->ponging || owner->state == CONNECTING_NAMESPACE || owner->state == JOINING) { /* a POST was answered */
        if (owner->state == CONNECTING_NAMESPACE) owner->state = AWAITING_CONNECT;
        if (owner->state == JOINING) {
            owner->state = POLLING;
            n_open++;
        }
        owner->ponging = 0;
        request(c, 0, 0);
    } else polled(owner, body, n);
}

/* Joins the chunks of a body in place; the bytes that it took of the input, 0 where it is not whole. */
static size_t unchunk(char *p, size_t n, size_t *length) {
    size_t at = 0, to = 0;
    for (;;) {
        char *line = memmem(p + at, n - at, "\r\n", 2);
        if (!line) return 0;
        size_t chunk = strtoul(p + at, 0, 16), begin = line + 2 - p;
        if (n < begin + chunk + 2) return 0;
        if (!chunk) break;
        to += chunk;
        at = begin + chunk + 2;
    }
    *length = to;
    for (at = to = 0;;) {
        char *line = memmem(p + at, n - at, "\r\n", 2);
        size_t chunk = strtoul(p + at, 0, 16), begin = line + 2 - p;
        if (!chunk) return begin + 2;
        memmove(p + to, p + begin, chunk);
        to += chunk;
        at = begin + chunk + 2;
    }
}

/* Takes an answer off the input; 0 where it is not whole. */
static int take(conn *c) {
    char *p = (char *)c->in, *end = memmem(p, c->in_len, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end + 4 - p, length = 0, used;
    if (memcmp(p, "HTTP/1.1 200", 12)) fail("refused", p);
    *end = 0;
    char *field = strcasestr(p, "\r\ncontent-length:");
    int chunked = !field && strcasestr(p, "\r\ntransfer-encoding: chunked");
    *end = '\r';
    if (chunked) {
        used = unchunk(p + head, c->in_len - head, &length);
        if (!used) return 0;
    } else {
        if (!field) fail("no length", p);
        used = length = strtoul(field + 17, 0, 10);
        if (c->in_len < head + length) return 0;
    }
    if (c->in_len != head + used) fail("more than an answer", p + head + used);
    c->in_len = 0;
    answered(c, p + head, length);
    return 1;
}

static void readable(conn *c) {
    grow(&c->in, &c->in_cap, c->in_len + READ_SIZE + 1);
    ssize_t n = recv(c->fd, c->in + c->in_len, READ_SIZE, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        n_dead++;
        epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, 0);
        return;
    }
    c->in_len += n;
    c->in[c->in_len] = 0;
    take(c);
}

static void pump(uint64_t until) {
    struct epoll_event ev[512];
    for (;;) {
        uint64_t t = now();
        if (t >= until) return;
        int k = epoll_wait(ep, ev, 512, (int)((until - t) / 1000000) + 1);
        for (int i = 0; i < k; i++) readable(ev[i].data.ptr);
        if (mode == 'f' && n_open == n_clients && waiting_for <= 0 && !clients[0].post.busy) {
            waiting_for = n_clients;
            put_event(&clients[0]);
        }
    }
}

static void open_all(void) {
    for (int i = 0; i < n_clients; i++) {
        client *c = &clients[i];
        c->index = i;
        connect_to(&c->get, c, 0);
        if (mode == 'e' || !i) connect_to(&c->post, c, 1);
        request(&c->get, 0, 0);
        if (i % 100 == 99 || i == n_clients - 1)
            for (uint64_t limit = now() + 30000000000ull; n_open <= i;) {
                pump(now() + 2000000ull);
                if (now() > limit || n_dead) fail("not all opened", "");
            }
    }
}

int main(int argc, char **argv) {
    if (argc != 9) fail("usage", "pollload echo|fan HOST PORT PATH CLIENTS SIZE 1 SECONDS");
    mode = argv[1][0];
    host = argv[2];
    port = argv[3];
    path = argv[4];
    n_clients = atoi(argv[5]);
    size = atoi(argv[6]);
    seconds = atof(argv[8]);
    addr = prepare(host, port);
    if (getenv("POLLLOAD_PAGE")) as_page(getenv("POLLLOAD_PAGE"));
    ep = epoll_create1(0);
    clients = calloc(n_clients, sizeof *clients);
    uint64_t t0 = now();
    open_all();
    double opened_in = (now() - t0) / 1e9;
    if (mode == 'e')
        for (int i = 0; i < n_clients; i++) put_event(&clients[i]);
    print_flow("poll", argv[1], n_clients, size, 1, measure(seconds, pump), n_open / opened_in, n_dead);
    return 0;
}
