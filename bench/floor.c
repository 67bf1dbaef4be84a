/* floor: what the kernel alone takes, for side-by-side measurements: no protocol, and no more than its system calls.
 *
 *   cc -O2 -o floor floor.c
 *
 *   floor send CONNS SIZE SECONDS   SIZE bytes to each of CONNS connections, again when all have arrived
 *   floor echo CONNS SIZE SECONDS   SIZE bytes come on each of CONNS connections, one in flight, and are sent back
 *
 * Two processes and CONNS TCP connections over loopback between them. The child is a load generator as wsload is: one
 * epoll set, which reads all. The parent is the server: one send(2) a delivery, or epoll_wait(2), recv(2), send(2) for
 * messages. Prints one JSON line: how often it sent, half a second after the load has begun and for SECONDS, and the
 * user and system CPU of the parent for each in microseconds.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

static int ep, n_conns, size, words[2], *conns; /* words: the child's end, and the parent's */
static char data[READ_SIZE];

static void must(int works, const char *what) {
    if (works) return;
    perror(what);
    exit(1);
}

static void adopt(int fd, int i) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    must(!epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e), "epoll_ctl");
    conns[i] = fd;
}

static void send_one(int fd) { must(send(fd, data, size, MSG_NOSIGNAL) == size, "send"); }

/* The load: ends when the parent has closed a connection. */
static void child(struct sockaddr_in *addr, int echo) {
    static char in[READ_SIZE];
    close(words[1]);
    ep = epoll_create1(0);
    for (int i = 0; i < n_conns; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        must(fd >= 0 && !connect(fd, (void *)addr, sizeof *addr), "connect");
        adopt(fd, i);
    }
    for (int i = 0; echo && i < n_conns; i++) send_one(conns[i]);
    struct epoll_event ev[512];
    for (long left = (long)n_conns * size;;) {
        int k = epoll_wait(ep, ev, 512, -1);
        for (int i = 0; i < k; i++) {
            ssize_t n = recv(ev[i].data.fd, in, sizeof in, 0);
            if (n <= 0) _exit(0);
            if (echo) send_one(ev[i].data.fd);
            else if (!(left -= n)) {
                left = (long)n_conns * size;
                must(write(words[0], "", 1) == 1, "write");
            }
        }
    }
}

static void broadcast(uint64_t until) {
    for (char word; now() < until; must(read(words[1], &word, 1) == 1, "read")) {
        for (int i = 0; i < n_conns; i++) send_one(conns[i]);
        counted += counting ? n_conns : 0;
    }
}

static void answer(uint64_t until) {
    struct epoll_event ev[512];
    while (now() < until) {
        int k = epoll_wait(ep, ev, 512, 100);
        for (int i = 0; i < k; i++) {
            must(recv(ev[i].data.fd, data, sizeof data, 0) == size, "recv");
            send_one(ev[i].data.fd);
        }
        counted += counting ? k : 0;
    }
}

int main(int argc, char **argv) {
    if (argc != 5 || (strcmp(argv[1], "send") && strcmp(argv[1], "echo")))
        fail("usage", "floor send|echo CONNS SIZE SECONDS");
    int echo = argv[1][0] == 'e';
    n_conns = atoi(argv[2]);
    size = atoi(argv[3]);
    if (n_conns < 1 || size < 1 || size > READ_SIZE) fail("expected 1 to 65536 bytes on 1 or more connections", "");
    struct sockaddr_in addr = prepare("127.0.0.1", "0");
    socklen_t length = sizeof addr;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    must(!bind(listener, (void *)&addr, sizeof addr) && !listen(listener, 1024), "listen");
    must(!getsockname(listener, (void *)&addr, &length) && !socketpair(AF_UNIX, SOCK_STREAM, 0, words), "socketpair");
    conns = calloc(n_conns, sizeof *conns);
    pid_t load = fork();
    must(load >= 0, "fork");
    if (!load) child(&addr, echo);
    close(words[0]);
    ep = epoll_create1(0);
    for (int i = 0; i < n_conns; i++) adopt(accept4(listener, 0, 0, SOCK_NONBLOCK), i);
    span s = measure(atof(argv[4]), echo ? answer : broadcast);
    for (int i = 0; i < n_conns; i++) close(conns[i]);
    waitpid(load, 0, 0); /* so that its CPU is known to whoever has started this */
    printf("{\"mode\": \"%s\", \"conns\": %d, \"size\": %d, \"counted\": %lu, \"rate\": %.0f, \"cpu_us\": %.3f}\n",
           argv[1], n_conns, size, (unsigned long)counted, counted / s.seconds, s.loader_cpu * 1e6 / counted);
    return 0;
}
