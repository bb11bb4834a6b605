"""
The life of one pageblock under ownership: claimed, spread, drained in part, recovered, whole again.
"""

import pcpbuddy as pb

zone = pb.Zone(2048, cpus=2, policy="fixed", batch=63, high_min=1000, high_max=4096)


def show(what: str) -> None:
    """
    One line: who owns block 0, is it on the owner's list, and how much of it lies in the zone.
    """
    state = zone.state()
    _, _, owner, linked = state["blocks"][0]
    in_zone = sum(min(1 << order, 512) for (order, _), pfns in state["free"].items() for pfn in pfns if pfn < 512)
    print(f"{what:<34} owner {'-' if owner < 0 else owner}, linked {linked}, {in_zone:3d} pages in the zone")


show("fresh: FREE")
pages = [zone.alloc(cpu=0) for _ in range(4)]
show("CPU 0 allocates 4 pages: PRIVATE")
zone.free(pages[0], cpu=1)
print(f"{'CPU 1 frees one':<34} it lies with CPU {0 if zone.summary()['pcp'][0]['count'] == 509 else 1}")
zone.drain(0)
show("CPU 0 drains: PARTIAL")
page = zone.alloc(cpu=0)
show("CPU 0 refills (phase 0): PRIVATE")
for pfn in (page, *pages[1:]):
    zone.free(pfn, cpu=1)
zone.drain(0)
show("all pages back, drained: FREE")
zone.check()
