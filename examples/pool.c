/* A page pool from C: cc -I$(python -c 'import pcpbuddy; print(pcpbuddy.get_include())') pool.c .../libpcpbuddy.so */
#include <pcpbuddy.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    pcpbuddy_pool *pool = pcpbuddy_create(1024, 0, 2, "handover", NULL);
    int64_t page, some[100];
    if (!pool)
        return 1;
    page = pcpbuddy_get(pool, 3); /* eight pages, aligned to eight */
    memset(pcpbuddy_memory(pool, page), 1, 8 * PCPBUDDY_PAGE_SIZE);
    printf("page %lld at %p, and %lld more\n", (long long)page, pcpbuddy_memory(pool, page),
        (long long)pcpbuddy_get_bulk(pool, 100, some));
    pcpbuddy_put_bulk(pool, 100, some);
    pcpbuddy_put(pool, page);
    pcpbuddy_drain(pool);
    printf("%lld pages of 1024 pages are free, invariants %s\n", (long long)pcpbuddy_free_pages(pool),
        pcpbuddy_check(pool) ? "broken" : "hold");
    pcpbuddy_destroy(pool);
    return 0;
}
