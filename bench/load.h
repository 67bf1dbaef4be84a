/* What the load generators share: time, a histogram of latencies, the server's CPU, a growing buffer. */
#pragma once
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

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int bucket(uint64_t v) {
    if (v < 64) return v;
    int e = 63 - __builtin_clzll(v);
    return (e - 5) * 64 + ((v >> (e - 6)) & 63);
}

static double bucket_value(int b) {
    if (b < 64) return b;
    int e = b / 64 + 5;
    return (double)((1ull << e) + ((uint64_t)(b % 64) << (e - 6)));
}

static double percentile_us(double p) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < 64 * 64; i++) total += hist[i];
    for (int i = 0; i < 64 * 64; i++) {
        seen += hist[i];
        if (seen && seen >= p * total) return bucket_value(i) / 1000.0;
    }
    return 0;
}

static void watch_servers(const char *pids) {
    while (pids && *pids && n_server_clocks < 64) {
        char *end;
        long pid = strtol(pids, &end, 10);
        if (end == pids || clock_getcpuclockid(pid, &server_clocks[n_server_clocks])) {
            fprintf(stderr, "WSLOAD_PIDS: no process %.20s\n", pids);
            exit(2);
        }
        n_server_clocks++;
        pids = *end == ',' ? end + 1 : end;
    }
}

static double server_cpu(void) {
    double total = 0;
    for (int i = 0; i < n_server_clocks; i++) {
        struct timespec t;
        if (!clock_gettime(server_clocks[i], &t)) total += t.tv_sec + t.tv_nsec / 1e9;
    }
    return total;
}

static void finish_line(uint64_t n, double cpu) {
    if (n_server_clocks)
        printf(", \"counted\": %lu, \"server_cpu_s\": %.6f, \"wrong\": %lu", (unsigned long)n, cpu,
               (unsigned long)wrong);
    printf("}\n");
}

static void count(uint64_t sent_at) {
    if (!counting) return;
    counted++;
    hist[bucket(now() - sent_at)]++;
}

static double own_cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void grow(uint8_t **b, size_t *cap, size_t need) {
    if (*cap >= need) return;
    while (*cap < need) *cap = *cap ? *cap * 2 : 4096;
    *b = realloc(*b, *cap);
    if (!*b) {
        perror("realloc");
        exit(1);
    }
}
