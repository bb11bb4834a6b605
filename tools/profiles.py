#!/usr/bin/env python3
"""
The profiles of config.py as a C header for _core/native.pyx, the pool's own first.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from pcpbuddy.config import POOL_PROFILE, PROFILES


def main() -> None:
    """
    A macro that fills any struct with these fields.
    """
    names = sorted(PROFILES, key=lambda name: name != POOL_PROFILE)
    print(f"enum {{ PB_PROFILES = {len(names)} }};")
    print("static const char *const pb_profile_names[] = {" + ", ".join(f'"{name}"' for name in names) + "};")
    print("#define pb_profile_name(k) (pb_profile_names[k])")
    print("#define pb_profile(k, p) do switch (k) { \\")
    for k, name in enumerate(names):
        fields = " ".join(f"(p)->{field} = {value};" for field, value in PROFILES[name].numbers().items())
        print(f"case {k}: {fields} break; \\")
    print("} while (0)")


main()
