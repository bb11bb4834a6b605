/*
 * The page pool of pcpbuddy from C: the allocator of a Linux zone under real threads, over memory of this process.
 *
 * Compile with -I of pcpbuddy.get_include(), link with libpcpbuddy.so beside that folder; no Python is needed. Any thread may
 * call any function at any time, but pcpbuddy_destroy, which is the last call. A page is its number in the pool's memory,
 * from 0 on; 2^order pages are named by the first. Arguments are trusted: a page that is put twice is not noticed.
 */
#ifndef PCPBUDDY_H
#define PCPBUDDY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PCPBUDDY_PAGE_SIZE 4096
#define PCPBUDDY_MAX_ORDER 10

typedef struct pcpbuddy_pool pcpbuddy_pool;

/*
 * A pool of so many pages, the last cma_pages of them a CMA area (whole pageblocks of 512; 0: none), for so many CPUs (1 to
 * 512; a CPU number is taken modulo that), under a profile such as "handover", "fixed" or "mainline". arena: memory of pages
 * * 4096 bytes that outlives the pool; NULL: the pool maps its own. NULL: no such profile, not such sizes, or not the memory.
 */
pcpbuddy_pool *pcpbuddy_create(uint64_t pages, uint64_t cma_pages, int cpus, const char *profile, void *arena);
void pcpbuddy_destroy(pcpbuddy_pool *pool); /* one that pcpbuddy_create made */

/* 2^order pages, order 0 to 10; -1: there are none. */
int64_t pcpbuddy_get(pcpbuddy_pool *pool, int order);
void pcpbuddy_put(pcpbuddy_pool *pool, int64_t page);

/* n single pages into pages[]; returns how many there were. put_bulk takes pages of any order, each once. */
int64_t pcpbuddy_get_bulk(pcpbuddy_pool *pool, int64_t n, int64_t *pages);
void pcpbuddy_put_bulk(pcpbuddy_pool *pool, int64_t n, const int64_t *pages);

void *pcpbuddy_memory(pcpbuddy_pool *pool, int64_t page);
uint64_t pcpbuddy_meta_bytes(pcpbuddy_pool *pool); /* of address space; resident is what was touched */

/* What lies in per-CPU lists goes back to the zone; what the kernel does once a second (a pool made in Python does so itself). */
void pcpbuddy_drain(pcpbuddy_pool *pool);
void pcpbuddy_tick(pcpbuddy_pool *pool);
int64_t pcpbuddy_free_pages(pcpbuddy_pool *pool); /* in the zone, not in lists */
int64_t pcpbuddy_free_chunks(pcpbuddy_pool *pool, int order);
int pcpbuddy_check(pcpbuddy_pool *pool); /* while nobody else uses the pool: 0, or the number of a broken invariant (core.md) */

/*
 * count contiguous pages of the CMA area, the first a multiple of 2^align; -1: there are none. One at a time. What is movable
 * there is moved by `move`, which copies 2^order pages from old to new, remembers where they are now, and returns 1; or 0: not
 * now. It may be asked for pages that were freed a moment ago, and frees nothing itself.
 */
typedef int (*pcpbuddy_move)(void *argument, int64_t old, int64_t new_, int order);
void pcpbuddy_set_movable(pcpbuddy_pool *pool, int64_t page, int movable);
int64_t pcpbuddy_cma_alloc(pcpbuddy_pool *pool, int64_t count, int align, pcpbuddy_move move, void *argument);
void pcpbuddy_cma_release(pcpbuddy_pool *pool, int64_t page, int64_t count);

/* PyCapsule of a PagePool made in Python (its attribute `capsule`): PyCapsule_GetPointer gives a pcpbuddy_pool *. */
#define PCPBUDDY_CAPSULE "pcpbuddy.pool"

/* The table by which allocators are measured; one pool at a time. pa_exit frees it. */
struct pa_ops {
    const char *name;
    int (*init)(size_t frames, int ncpu, void *arena);
    uint64_t (*get)(int cpu, int order); /* all ones: none */
    void (*put)(int cpu, uint64_t handle, int order);
    int handle_is_ptr;
    size_t (*meta_bytes)(void);
    void (*thread_init)(int cpu); /* may be null */
};
extern struct pa_ops pa_ops;
const struct pa_ops *pcpbuddy_pa_ops(const char *profile); /* the same, under that profile from the next init on */
void pa_exit(void);

#ifdef __cplusplus
}
#endif
#endif
