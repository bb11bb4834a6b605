/* The yardstick of the readers of text: how fast the C library finds the ends of lines, one call a line. */

#include <string.h>

unsigned long lines(const char *text, unsigned long size)
{
    const char *p = text, *end = text + size;
    unsigned long found = 0;
    while ((p = memchr(p, '\n', end - p))) {
        p++;
        found++;
    }
    return found;
}
