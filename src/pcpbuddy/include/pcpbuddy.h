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
 * A pool of so many pages for so many CPUs (1 to 512; a CPU number is taken modulo that), under a profile such as "handover",
 * "fixed" or "mainline". arena: memory of pages * 4096 bytes that outlives the pool; NULL: the pool maps its own.
 * NULL if there is no such profile, or not the memory. errno is not set.
 */
pcpbuddy_pool *pcpbuddy_create(uint64_t pages, int cpus, const char *profile, void *arena);
void pcpbuddy_destroy(pcpbuddy_pool *pool); /* one that pcpbuddy_create made */

/* 2^order pages, order 0 to 10; -1: there are none. */
int64_t pcpbuddy_get(pcpbuddy_pool *pool, int order);
void pcpbuddy_put(pcpbuddy_pool *pool, int64_t page);

/* n single pages into pages[]; returns how many there were. put_bulk takes pages of any order, each once. */
int64_t pcpbuddy_get_bulk(pcpbuddy_pool *pool, int64_t n, int64_t *pages);
void pcpbuddy_put_bulk(pcpbuddy_pool *pool, int64_t n, const int64_t *pages);

void *pcpbuddy_memory(pcpbuddy_pool *pool, int64_t page);
uint64_t pcpbuddy_meta_bytes(pcpbuddy_pool *pool); /* of address space; resident is what was touched */

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
