/* What the load generators share: time, a histogram of latencies, the server's CPU, measuring, a growing buffer. */
#pragma once
#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#define WARM_UP_NS 500000000ull
#define READ_SIZE 65536
#define WAVE 200 /* connections opened at once: below any backlog */

static int counting;
static uint64_t counted, wrong;
static uint64_t hist[64 * 64]; /* log-linear histogram of nanoseconds */
static clockid_t server_clocks[64];
static int n_server_clocks;

/* What was measured: for how long, and the CPU seconds that the servers and the loader took meanwhile. */
typedef struct {
    double seconds, server_cpu, loader_cpu;
} span;

static inline void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %.120s\n", what, detail);
    exit(1);
}

static inline uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline int bucket(uint64_t v) {
    if (v < 64) return v;
    int e = 63 - __builtin_clzll(v);
    return (e - 5) * 64 + ((v >> (e - 6)) & 63);
}

static inline double bucket_value(int b) {
    if (b < 64) return b;
    int e = b / 64 + 5;
    return (double)((1ull << e) + ((uint64_t)(b % 64) << (e - 6)));
}

static inline double percentile_us(double p) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < 64 * 64; i++) total += hist[i];
    for (int i = 0; i < 64 * 64; i++) {
        seen += hist[i];
        if (seen && seen >= p * total) return bucket_value(i) / 1000.0;
    }
    return 0;
}

static inline void watch_servers(const char *pids) {
    while (pids && *pids && n_server_clocks < 64) {
        char *end;
        long pid = strtol(pids, &end, 10);
        if (end == pids || clock_getcpuclockid(pid, &server_clocks[n_server_clocks]))
            fail("WSLOAD_PIDS: no such process", pids);
        n_server_clocks++;
        pids = *end == ',' ? end + 1 : end;
    }
}

static inline double server_cpu(void) {
    double total = 0;
    for (int i = 0; i < n_server_clocks; i++) {
        struct timespec t;
        if (!clock_gettime(server_clocks[i], &t)) total += t.tv_sec + t.tv_nsec / 1e9;
    }
    return total;
}

static inline void count(uint64_t sent_at) {
    if (!counting) return;
    counted++;
    hist[bucket(now() - sent_at)]++;
}

static inline double own_cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* Lets the load go on, by `pump`, for the warm-up and then for so long that is counted. */
static inline span measure(double seconds, void (*pump)(uint64_t until)) {
    pump(now() + WARM_UP_NS);
    uint64_t begun = now();
    double loader = own_cpu(), server = server_cpu();
    counting = 1;
    pump(begun + (uint64_t)(seconds * 1e9));
    double took = (now() - begun) / 1e9;
    return (span){took, server_cpu() - server, own_cpu() - loader};
}

/* The end of each line: what was counted, where WSLOAD_PIDS told whose CPU to read. */
static inline void finish_line(double server) {
    if (n_server_clocks)
        printf(", \"counted\": %lu, \"server_cpu_s\": %.6f, \"wrong\": %lu", (unsigned long)counted, server,
               (unsigned long)wrong);
    printf("}\n");
}

static inline void print_flow(const char *kind, const char *mode, int conns, int size, int depth, span s,
                              double opens_per_s, int dead) {
    printf("{\"mode\": \"%s%s\", \"conns\": %d, \"size\": %d, \"depth\": %d, \"messages_per_s\": %.0f, "
           "\"p50_us\": %.0f, \"p99_us\": %.0f, \"p999_us\": %.0f, \"opens_per_s\": %.0f, \"dead\": %d, "
           "\"loader_cpu\": %.2f",
           kind, mode, conns, size, depth, counted / s.seconds, percentile_us(.5), percentile_us(.99),
           percentile_us(.999), opens_per_s, dead, s.loader_cpu / s.seconds);
    finish_line(s.server_cpu);
}

/* The address of the server, which must be on loopback; as many open files as allowed; no signal from a lost peer. */
static inline struct sockaddr_in prepare(const char *host, const char *port) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, host, &addr.sin_addr) != 1 || (ntohl(addr.sin_addr.s_addr) >> 24) != 127)
        fail("loopback addresses only", host);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
    watch_servers(getenv("WSLOAD_PIDS"));
    return addr;
}

static inline void grow(uint8_t **b, size_t *cap, size_t need) {
    if (*cap >= need) return;
    while (*cap < need) *cap = *cap ? *cap * 2 : 4096;
    *b = realloc(*b, *cap);
    if (!*b) fail("realloc", "out of memory");
}
