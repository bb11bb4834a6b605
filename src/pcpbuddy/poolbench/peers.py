"""
Allocators that can be measured: our profiles, the mallocs of this system, shared objects with ``pa_ops``, and none.
"""

import ctypes
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .._core.poolbench import Allocator

__all__ = ["Peer", "empty", "object_file", "on_this_system", "our"]

LIBRARY = Path(__file__).parent.parent / "libpcpbuddy.so"
# name -> soname, function that gives aligned memory, whether its size comes first, function that takes it back
MALLOCS = {
    "glibc": ("libc.so.6", "aligned_alloc", False, "free"),
    "jemalloc": ("libjemalloc.so.2", "aligned_alloc", False, "free"),
    "mimalloc": ("libmimalloc.so.2", "mi_malloc_aligned", True, "mi_free"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "tc_memalign", False, "tc_free"),
}
# What is freed stays with them, as with us: nobody gives memory back to the system while time is taken. Read when a
# process starts. mimalloc's names changed: PURGE since 2.1, the others before.
NO_PURGING = {
    "MALLOC_CONF": "retain:true,dirty_decay_ms:-1,muzzy_decay_ms:-1",
    "MIMALLOC_PURGE_DELAY": "-1",
    "MIMALLOC_RESET_DELAY": "-1",
    "MIMALLOC_PAGE_RESET": "0",
    "MIMALLOC_ALLOW_DECOMMIT": "0",
    "TCMALLOC_RELEASE_RATE": "0",
    "TCMALLOC_AGGRESSIVE_DECOMMIT": "0",
    # No trimming of the main heap, no mapping of its own for a large block; and a heap of another arena, 64 MiB, is
    # unmapped when the one before it has more than top_pad free, so that is as much.
    "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1099511627776:glibc.malloc.mmap_max=0:glibc.malloc.top_pad=67108864",
}
LOCAL = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """
    kind: "our" (a profile), "malloc" (a key of MALLOCS), "object" (a file), "empty".
    """

    name: str
    kind: str
    what: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """
        Of its process. jemalloc's thread-local memory fits only when it is loaded with the process.
        """
        return NO_PURGING | ({"LD_PRELOAD": MALLOCS["jemalloc"][0]} if self.what == "jemalloc" else {})

    def open(self) -> "Allocator":
        """
        In the process that is to use it. Raises ConfigError for what cannot be loaded.
        """
        from .._core.poolbench import Allocator

        if self.kind == "empty":
            return Allocator.empty()
        if self.kind == "malloc":
            soname, get, size_first, put = MALLOCS[self.what]
            library = ctypes.CDLL(soname, mode=LOCAL)
            return Allocator.malloc_kind(_address(library, get), _address(library, put), size_first)
        if self.kind == "our":
            chosen = _load(LIBRARY).pcpbuddy_pa_ops
            chosen.restype, chosen.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
            return Allocator.table(chosen(self.what.encode()))
        return Allocator.table(ctypes.addressof(ctypes.c_char.in_dll(_load(Path(self.what)), "pa_ops")))


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path.resolve()), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise ConfigError(f"{path} cannot be loaded: {error}") from None


def empty() -> Peer:
    """
    The harness alone.
    """
    return Peer("empty", "empty")


def our(profile: str) -> Peer:
    """
    A profile of ours, out of libpcpbuddy.so.
    """
    from ..config import PROFILES

    if profile not in PROFILES:
        raise ConfigError(f"--policy {profile}: only profiles are built into libpcpbuddy.so: {', '.join(PROFILES)}")
    if not LIBRARY.exists():
        raise ConfigError(
            f"{LIBRARY.name} is not beside the package: install it with pip, not from its sources' folder"
        )
    return Peer(profile, "our", profile)


def on_this_system() -> list[Peer]:
    """
    Those of malloc's kind that can be loaded here: tried in a process of its own each.
    """
    found = []
    for name, (soname, get, _, put) in MALLOCS.items():
        peer = Peer(name, "malloc", name)
        script = f"import ctypes; library = ctypes.CDLL({soname!r}); library.{get}, library.{put}"
        tried = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | peer.environment, capture_output=True, check=False
        )
        if tried.returncode == 0:
            found.append(peer)
    return found


def object_file(path: str) -> Peer:
    """
    A shared object that exports ``pa_ops``. It is loaded here once, so what is none is refused before anything runs.
    """
    library = _load(Path(path))
    try:
        table = ctypes.c_void_p.in_dll(library, "pa_ops")
    except ValueError:
        raise ConfigError(f"{path} exports no pa_ops: see docs/reference/bench-pool.md for what a peer is") from None
    name = ctypes.cast(table, ctypes.c_char_p).value
    return Peer((name or b"").decode("ascii", "replace") or Path(path).stem, "object", path)
