"""
A contiguous buffer out of a CMA area that is in use: pages are moved out of the way, contents and all.
"""

import random

import pcpbuddy as pb

zone = pb.Zone(size="64MiB", cpus=4, policy="fixed", cma="40MiB")
area, area_pages = zone.cma_areas()[0]
contents = {}  # pfn -> what is in the page; whoever holds real pages keeps them here
pinned = set()


def move(old, new, order):
    """
    Called for each page that is in the way. False: it cannot be moved now.
    """
    if old in pinned:
        return False
    contents[new] = contents.pop(old)
    return True


chance = random.Random(7)
for number in range(6000):
    pfn = zone.alloc(cpu=chance.randrange(4))
    zone.set_movable(pfn)  # as if it were on an LRU list
    contents[pfn] = f"page {number}"
pinned.add(min(pfn for pfn in contents if pfn >= area))
in_area = sum(pfn >= area for pfn in contents)
print(f"{in_area} of {len(contents)} pages lie in the CMA area of {area_pages}")

for count, align in ((1024, 8), (1024, 8), (area_pages, 0)):
    got = zone.cma_alloc(count, align, move=move)
    where = f"pfn {got.pfn}" if got.pfn is not None else f"nowhere ({got.reason})"
    print(f"{count} pages, aligned to order {align}: {where}; {got.pages_migrated} pages moved, {got.refused} refused")
    for start, end, reason, page in got.tried:
        print(f"   {start}..{end - 1} {reason or 'obtained'}" + (f" at pfn {page}" if reason else ""))

contents_are_all_there = sorted(contents.values()) == sorted(f"page {number}" for number in range(6000))
print("every content arrived:", contents_are_all_there)
zone.check()
