"""
Pages are allocated on CPU 0 and freed on CPU 1: what that does to the zone lock under two policies.
"""

import pcpbuddy as pb

PAGES = 20_000

for policy in ("mainline", "fixed"):
    zone = pb.Zone(size="256MiB", cpus=2, policy=policy)
    in_flight = []
    for _ in range(PAGES):
        in_flight.append(zone.alloc(cpu=0))
        if len(in_flight) > 256:
            zone.free(in_flight.pop(0), cpu=1)
    counters = zone.counters()
    holds = sum(value for name, value in counters.items() if name.startswith("holds_"))
    print(f"{policy:>9}: {holds:5d} zone-lock holds, {counters['list_ops']:6d} list operations under it")
    zone.check()
