"""
What a refill does, as kernel-shaped events: mainline takes 63 pages one by one, the proposal one block.
"""

from collections import Counter

import pcpbuddy as pb

for policy in ("mainline", "fixed"):
    zone = pb.Zone(2048, policy=policy, batch=63, high_min=1000, high_max=4096)
    zone.trace()
    zone.alloc()
    print(policy, dict(Counter(event[0] for event in zone.events())), "then", zone.events()[-1])
    print(zone.buddyinfo(), end="")
