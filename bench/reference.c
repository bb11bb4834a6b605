/*
 * The reference of the replay benchmark: a plain lock buddy, fed with the same request records.
 *
 * One zone, one spin lock, 16-byte descriptors, one circular list per order, eager merging. No per-CPU lists,
 * migratetypes, watermarks, counters or events. The handle map is the replay's: one entry a page, both ways of
 * freeing (a whole allocation, or page by page where the request cuts it).
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NR_ORDERS 11
#define MAX_ORDER 10

enum { INTERIOR, FREE, ALLOCATED };	/* states of a page */
enum { OP_ALLOC, OP_FREE, OP_BULK };	/* requests.py; all others are skipped */

struct request {			/* requests.REQUEST */
	uint32_t pfn;
	uint32_t gfp;
	uint32_t nr;
	uint16_t cpu;
	uint8_t op;
	uint8_t order;
};

struct page {
	uint32_t next;
	uint32_t prev;
	uint32_t order;
	uint32_t state;
};

struct buddy {
	struct page *pages;		/* nr_pages, then one list head per order */
	uint32_t *map;			/* handle -> own page + 1; 0: not live */
	uint32_t nr_pages;
	uint32_t nr_handles;
	uint32_t lock;
	struct page *saved_pages;
	uint32_t *saved_map;
	uint64_t failed;
	uint64_t skipped;
};

static inline void lock(uint32_t *word)
{
	while (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
		while (__atomic_load_n(word, __ATOMIC_RELAXED))
			;
}

static inline void unlock(uint32_t *word)
{
	__atomic_store_n(word, 0, __ATOMIC_RELEASE);
}

static inline void list_add(struct buddy *b, uint32_t i, unsigned order)
{
	struct page *pages = b->pages;
	uint32_t head = b->nr_pages + order;
	uint32_t next = pages[head].next;

	pages[i] = (struct page){ next, head, order, FREE };
	pages[next].prev = i;
	pages[head].next = i;
}

static inline void list_del(struct buddy *b, uint32_t i)
{
	struct page *pages = b->pages;

	pages[pages[i].prev].next = pages[i].next;
	pages[pages[i].next].prev = pages[i].prev;
}

static inline uint32_t buddy_alloc(struct buddy *b, unsigned order)
{
	unsigned have = order;
	uint32_t head, i;

	for (;; have++) {
		if (have > MAX_ORDER)
			return UINT32_MAX;
		head = b->nr_pages + have;
		i = b->pages[head].next;
		if (i != head)
			break;
	}
	list_del(b, i);
	while (have > order) {
		have--;
		list_add(b, i + (1u << have), have);
	}
	b->pages[i].order = order;
	b->pages[i].state = ALLOCATED;
	return i;
}

static inline void buddy_free(struct buddy *b, uint32_t i, unsigned order)
{
	b->pages[i].state = INTERIOR;
	while (order < MAX_ORDER) {
		uint32_t other = i ^ (1u << order);

		if (b->pages[other].state != FREE || b->pages[other].order != order)
			break;
		list_del(b, other);
		b->pages[other].state = INTERIOR;
		i &= other;
		order++;
	}
	list_add(b, i, order);
}

static inline void alloc_request(struct buddy *b, uint32_t handle, unsigned order)
{
	uint32_t i;

	lock(&b->lock);
	i = buddy_alloc(b, order);
	unlock(&b->lock);
	if (i == UINT32_MAX) {
		b->failed++;
		return;
	}
	for (uint32_t k = 0; k < 1u << order; k++)
		b->map[handle + k] = i + k + 1;
}

static inline int whole(struct buddy *b, uint32_t handle, unsigned order)
{
	uint32_t own = b->map[handle];
	struct page *page = &b->pages[own - 1];

	if (!own || page->state != ALLOCATED || page->order != order)
		return 0;
	for (uint32_t k = 1; k < 1u << order; k++)
		if (b->map[handle + k] != own + k)
			return 0;
	return 1;
}

static inline void free_request(struct buddy *b, uint32_t handle, unsigned order)
{
	uint32_t own = b->map[handle];

	if (whole(b, handle, order)) {
		lock(&b->lock);
		buddy_free(b, own - 1, order);
		unlock(&b->lock);
		for (uint32_t k = 0; k < 1u << order; k++)
			b->map[handle + k] = 0;
		return;
	}
	for (uint32_t k = 0; k < 1u << order; k++) {
		own = b->map[handle + k];
		if (!own) {
			b->skipped++;
			continue;
		}
		lock(&b->lock);
		buddy_free(b, own - 1, 0);
		unlock(&b->lock);
		b->map[handle + k] = 0;
	}
}

void ref_run(struct buddy *b, const struct request *q, uint64_t n)
{
	const struct request *end = q + n;

	while (q < end) {
		if (q->op == OP_ALLOC) {
			alloc_request(b, q->pfn, q->order);
		} else if (q->op == OP_FREE) {
			free_request(b, q->pfn, q->order);
		} else if (q->op == OP_BULK) {
			const struct request *last = q + q->nr - 1;

			for (; q < last; q++)
				alloc_request(b, q->pfn, 0);
			alloc_request(b, q->pfn, 0);
		}
		q++;
	}
}

void ref_delete(struct buddy *b)
{
	if (!b)
		return;
	free(b->pages);
	free(b->map);
	free(b->saved_pages);
	free(b->saved_map);
	free(b);
}

/* nr_pages: a multiple of the largest chunk. */
struct buddy *ref_new(uint32_t nr_pages, uint32_t nr_handles)
{
	struct buddy *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->nr_pages = nr_pages;
	b->nr_handles = nr_handles + (1u << MAX_ORDER);
	b->pages = calloc(nr_pages + NR_ORDERS, sizeof(*b->pages));
	b->map = calloc(b->nr_handles, sizeof(*b->map));
	b->saved_pages = malloc((nr_pages + NR_ORDERS) * sizeof(*b->pages));
	b->saved_map = malloc(b->nr_handles * sizeof(*b->map));
	if (!b->pages || !b->map || !b->saved_pages || !b->saved_map) {
		ref_delete(b);
		return NULL;
	}
	for (uint32_t o = 0; o < NR_ORDERS; o++)
		b->pages[nr_pages + o].next = b->pages[nr_pages + o].prev = nr_pages + o;
	return b;
}

/* n chunks (pfn, order) that are free; in the order in which a list should give them. */
void ref_fill(struct buddy *b, const uint32_t (*chunks)[2], uint64_t n)
{
	while (n--)
		buddy_free(b, chunks[n][0], chunks[n][1]);
}

/* n chunks (pfn, order) that are allocated; their handles are their own pages. */
void ref_allocated(struct buddy *b, const uint32_t (*chunks)[2], uint64_t n)
{
	for (; n--; chunks++) {
		b->pages[(*chunks)[0]].order = (*chunks)[1];
		b->pages[(*chunks)[0]].state = ALLOCATED;
		for (uint32_t k = 0; k < 1u << (*chunks)[1]; k++)
			b->map[(*chunks)[0] + k] = (*chunks)[0] + k + 1;
	}
}

void ref_save(struct buddy *b)
{
	memcpy(b->saved_pages, b->pages, (b->nr_pages + NR_ORDERS) * sizeof(*b->pages));
	memcpy(b->saved_map, b->map, b->nr_handles * sizeof(*b->map));
}

void ref_restore(struct buddy *b)
{
	memcpy(b->pages, b->saved_pages, (b->nr_pages + NR_ORDERS) * sizeof(*b->pages));
	memcpy(b->map, b->saved_map, b->nr_handles * sizeof(*b->map));
	b->failed = b->skipped = 0;
}

uint64_t ref_failed(const struct buddy *b)
{
	return b->failed;
}

uint64_t ref_skipped(const struct buddy *b)
{
	return b->skipped;
}
