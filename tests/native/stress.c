/*
 * Threads that get, pass on and put pages of all orders, while one takes contiguous memory and drains and ticks: at the end the
 * pool is what it was. stress PROFILE THREADS CPUS SECONDS SEED; prints what was done, exits with 1 and a sentence if it broke.
 *
 * Each page carries a stamp at both ends that only its holder changes. A holder is a handle, so that pages can be moved: its
 * lock is held by whoever works with the pages.
 */
#include "pcpbuddy.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGES (16 * 1024)
#define CMA (6 * 1024)
#define SLOTS 4096

struct handle {
    int lock;
    int order;    /* -1: holds nothing */
    int64_t page;
    uint64_t stamp;
};

static pcpbuddy_pool *pool;
static struct handle handles[SLOTS];
static struct handle *handle_of[PAGES];
static int over, threads;
static uint64_t done[64], moves, ranges, bulks;

static void broke(const char *what, int64_t page) {
    fprintf(stderr, "stress: %s at page %lld\n", what, (long long)page);
    exit(1);
}

static int try_take(struct handle *h) {
    return !__atomic_exchange_n(&h->lock, 1, __ATOMIC_ACQUIRE);
}

static void drop(struct handle *h) {
    __atomic_store_n(&h->lock, 0, __ATOMIC_RELEASE);
}

static uint64_t *ends(struct handle *h, int last) {
    char *p = pcpbuddy_memory(pool, h->page);
    return (uint64_t *)(last ? p + ((size_t)PCPBUDDY_PAGE_SIZE << h->order) - 8 : p);
}

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void fill(struct handle *h, uint64_t *seed) {
    static const int orders[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 4, 6, 9};
    int order = orders[next(seed) & 15];
    int64_t page = pcpbuddy_get(pool, order);
    if (page < 0)
        return;
    if (page & ((1 << order) - 1) || page + (1 << order) > PAGES)
        broke("a chunk that is not aligned", page);
    h->page = page;
    h->stamp = next(seed);
    h->order = order;
    *ends(h, 0) = h->stamp;
    *ends(h, 1) = h->stamp;
    __atomic_store_n(&handle_of[page], h, __ATOMIC_RELEASE);
    if (*seed >> 40 & 3)
        pcpbuddy_set_movable(pool, page, 1);
}

static void look(struct handle *h) {
    if (*ends(h, 0) != h->stamp || *ends(h, 1) != h->stamp)
        broke("somebody else wrote", h->page);
}

static void empty(struct handle *h) {
    look(h);
    pcpbuddy_set_movable(pool, h->page, 0);
    __atomic_store_n(&handle_of[h->page], NULL, __ATOMIC_RELEASE);
    pcpbuddy_put(pool, h->page);
    h->order = -1;
}

static int move(void *argument, int64_t old, int64_t to, int order) {
    struct handle *h = __atomic_load_n(&handle_of[old], __ATOMIC_ACQUIRE);
    int moved = 0;
    (void)argument;
    if (!h || !try_take(h))
        return 0;
    if (h->order == order && h->page == old) {
        look(h);
        memcpy(pcpbuddy_memory(pool, to), pcpbuddy_memory(pool, old), (size_t)PCPBUDDY_PAGE_SIZE << order);
        __atomic_store_n(&handle_of[old], NULL, __ATOMIC_RELEASE);
        h->page = to;
        look(h);
        __atomic_store_n(&handle_of[to], h, __ATOMIC_RELEASE);
        moved = 1;
        __atomic_add_fetch(&moves, 1, __ATOMIC_RELAXED);
    }
    drop(h);
    return moved;
}

static void some_at_once(uint64_t *seed) {
    int64_t pages[200], n = 1 + (int64_t)(next(seed) % 200), got = pcpbuddy_get_bulk(pool, n, pages), k;
    for (k = 0; k < got; k++)
        *(uint64_t *)pcpbuddy_memory(pool, pages[k]) = *seed + (uint64_t)k;
    for (k = 0; k < got; k++)
        if (*(uint64_t *)pcpbuddy_memory(pool, pages[k]) != *seed + (uint64_t)k)
            broke("somebody else wrote", pages[k]);
    pcpbuddy_put_bulk(pool, got, pages);
    __atomic_add_fetch(&bulks, 1, __ATOMIC_RELAXED);
}

static void *holder(void *argument) {
    uint64_t nr = (uint64_t)(uintptr_t)argument, seed = nr * 0x9e3779b97f4a7c15u + 1;
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        struct handle *h = &handles[next(&seed) % SLOTS];
        if ((seed & 0xfff) == 0)
            some_at_once(&seed);
        if (!try_take(h))
            continue;
        if (h->order < 0)
            fill(h, &seed);
        else
            empty(h);
        drop(h);
        done[nr & 63]++;
    }
    return NULL;
}

static void *keeper(void *argument) {
    uint64_t seed = (uint64_t)(uintptr_t)argument * 77 + 5;
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        int64_t count = 1 + (int64_t)(next(&seed) % 1200), page = pcpbuddy_cma_alloc(pool, count, (int)(seed >> 50 & 3), move, NULL);
        if (page >= 0) {
            memset(pcpbuddy_memory(pool, page), 0xcc, (size_t)count * PCPBUDDY_PAGE_SIZE);
            pcpbuddy_cma_release(pool, page, count);
            ranges++;
        }
        if (!(seed & 7))
            pcpbuddy_drain(pool);
        if (!(seed & 24))
            pcpbuddy_tick(pool);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t t[65];
    struct timespec wait = {0, 0};
    uint64_t all = 0;
    int k, rule;
    if (argc != 6) {
        fprintf(stderr, "stress PROFILE THREADS CPUS SECONDS SEED\n");
        return 2;
    }
    threads = atoi(argv[2]);
    wait.tv_sec = atoi(argv[4]);
    pool = pcpbuddy_create(PAGES, CMA, atoi(argv[3]), argv[1], NULL);
    if (!pool || threads < 1 || threads > 64)
        broke("no such pool", 0);
    for (k = 0; k < SLOTS; k++)
        handles[k].order = -1;
    for (k = 0; k < threads; k++)
        pthread_create(&t[k], NULL, holder, (void *)(uintptr_t)(k + 1 + 1000 * atoi(argv[5])));
    pthread_create(&t[threads], NULL, keeper, (void *)(uintptr_t)(1 + atoi(argv[5])));
    nanosleep(&wait, NULL);
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (k = 0; k <= threads; k++)
        pthread_join(t[k], NULL);
    if ((rule = pcpbuddy_check(pool)))
        broke("an invariant is broken with pages held; its number stands for a page", rule);
    for (k = 0; k < SLOTS; k++)
        if (handles[k].order >= 0)
            empty(&handles[k]);
    pcpbuddy_drain(pool);
    if ((rule = pcpbuddy_check(pool)))
        broke("an invariant is broken; its number stands for a page", rule);
    if (pcpbuddy_free_pages(pool) != PAGES || pcpbuddy_free_chunks(pool, PCPBUDDY_MAX_ORDER) != PAGES >> PCPBUDDY_MAX_ORDER)
        broke("not everything came back and merged; free pages stand for a page", pcpbuddy_free_pages(pool));
    for (k = 0; k < 64; k++)
        all += done[k];
    printf("%s: %d threads, %s CPUs: %llu operations, %llu bulk, %llu ranges, %llu pages moved\n", argv[1], threads, argv[3],
        (unsigned long long)all, (unsigned long long)bulks, (unsigned long long)ranges, (unsigned long long)moves);
    pcpbuddy_destroy(pool);
    return 0;
}
