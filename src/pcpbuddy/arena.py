"""
Where a pool lies: its pages, the state of its zone, and who else uses them.

A private arena is anonymous memory. A shared one is a file (on disk, in /dev/shm, or a memfd) that every process maps
where it likes (law L3): a header that says what the pool is, the state, the pages. Each process holds a lock on a byte
of the file that the system drops when the process ends, however it ends; its number is what it writes into the pool's
locks (_core/lock.pxd).
"""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .names import PAGE_SIZE

__all__ = ["Arena", "attached", "private", "shared"]

MAGIC = b"pcpbuddy pool 1\n"
HEADER = PAGE_SIZE
ALIGNED = 2 << 20  # pages and state begin where a huge page can
PROCESSES = 250
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
MAP_HUGETLB = 0x40000
HUGE = ("transparent", "explicit", "never")


class Arena:
    """
    memory: the pages. state: the zone's state, if it is shared; it stays mapped as long as a zone uses it. fd, me: of
        a shared arena the open file, and the number of this process in it; else -1 and 1.
    """

    def __init__(self, memory: mmap.mmap, state: mmap.mmap | None, fd: int = -1, me: int = 1) -> None:
        self.memory = memory
        self.state = state
        self.fd = fd
        self.me = me
        self.path: Path | None = None
        self.facts: dict[str, Any] = {}

    def give_back(self, pfn: int, pages: int) -> None:
        """
        The contents are gone, and the memory with them; the next touch finds zeros.
        """
        advice = mmap.MADV_DONTNEED if self.fd < 0 else mmap.MADV_REMOVE
        self.memory.madvise(advice, pfn * PAGE_SIZE, pages * PAGE_SIZE)

    def renew(self) -> None:
        """
        In a child after a fork: a place of its own among the processes. The parent's lock belongs to the open file,
        which the child has inherited, so that must be closed.
        """
        inherited = self.fd
        self.fd = os.open(f"/proc/self/fd/{inherited}", os.O_RDWR | os.O_CLOEXEC)
        os.close(inherited)
        self.me = _enter(self.fd)

    def close(self) -> None:
        """
        The pages are unmapped. Raises BufferError while something shows them.
        """
        self.memory.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def private(nr_pages: int, huge: str) -> Arena:
    """
    Anonymous memory. Raises ConfigError where the system has not so much of the kind.
    """
    if huge not in HUGE:
        raise ConfigError(f"huge={huge!r}: expected one of {', '.join(HUGE)}")
    size = nr_pages * PAGE_SIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    if huge == "explicit":
        if size % ALIGNED:
            raise ConfigError(f"{size} bytes in huge pages: expected a multiple of 2 MiB")
        flags |= MAP_HUGETLB
    try:
        memory = mmap.mmap(-1, size, flags=flags)
    except OSError as error:
        if huge == "explicit":
            raise ConfigError(
                f"the system has not {size // ALIGNED} huge pages of 2 MiB free ({error.strerror}): reserve them in "
                'vm.nr_hugepages, or ask for huge="transparent"'
            ) from None
        raise ConfigError(f"{size} bytes cannot be mapped ({error.strerror}): ask for less") from None
    if huge == "transparent" and hasattr(mmap, "MADV_HUGEPAGE"):
        _advise(memory, mmap.MADV_HUGEPAGE)
    return Arena(memory, None)


def _advise(memory: mmap.mmap, advice: int) -> None:
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages
        memory.madvise(advice)


def place(name: str | os.PathLike[str]) -> Path:
    """
    The file of a pool: a path, or a bare name for POSIX shared memory.
    """
    text = os.fspath(name)
    return Path(text) if "/" in text else Path("/dev/shm") / text


def shared(name: str | os.PathLike[str] | None, nr_pages: int, state_bytes: int, facts: dict[str, Any]) -> Arena:
    """
    A new file that other processes can attach to; name None: a memfd. It is not ready before ``ready`` was called.

    Raises ConfigError where it exists, cannot be written, or does not fit.
    """
    first = -(-(HEADER + state_bytes) // ALIGNED) * ALIGNED
    size = first + nr_pages * PAGE_SIZE
    path = None if name is None else place(name)
    try:
        if path is None:
            fd = os.memfd_create("pcpbuddy", os.MFD_CLOEXEC)
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists: attach to it with PagePool.attach, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({error.strerror})") from None
    try:
        _need_room(fd, path, size)
        os.ftruncate(fd, size)
        facts = facts | {"first": first, "nr_pages": nr_pages, "state_bytes": state_bytes}
        arena = _mapped(fd, facts)
    except OSError as error:
        _undo(fd, path)
        raise ConfigError(f"{path or 'memfd'}: {size} bytes cannot be had ({error.strerror})") from None
    except ConfigError:
        _undo(fd, path)
        raise
    arena.path = path
    return arena


def _mapped(fd: int, facts: dict[str, Any]) -> Arena:
    pages = mmap.mmap(fd, facts["nr_pages"] * PAGE_SIZE, offset=facts["first"])
    arena = Arena(pages, mmap.mmap(fd, facts["state_bytes"], offset=HEADER), fd, _enter(fd))
    arena.facts = facts
    return arena


def _need_room(fd: int, path: Path | None, size: int) -> None:
    """
    A file system that fills up later would end the process with SIGBUS, so it is asked beforehand.
    """
    there = os.fstatvfs(fd)
    free = there.f_bavail * there.f_frsize
    if path is not None and there.f_blocks and free < size:
        raise ConfigError(f"{path.parent} has {free} bytes free, and the pool needs {size}: free some, or ask for less")


def _undo(fd: int, path: Path | None) -> None:
    os.close(fd)
    if path is not None:
        path.unlink(missing_ok=True)


def ready(arena: Arena) -> None:
    """
    The state is laid out: others may come. The magic is written last.
    """
    text = json.dumps(arena.facts).encode()
    if len(MAGIC) + 4 + len(text) > HEADER:
        raise ConfigError(f"a description of {len(text)} bytes does not fit into the pool's header")
    os.pwrite(arena.fd, struct.pack("<I", len(text)) + text, len(MAGIC))
    os.pwrite(arena.fd, MAGIC, 0)


def attached(name: str | os.PathLike[str] | int) -> Arena:
    """
    A pool that is there already: a path, a name in /dev/shm, or the number of an open file, which stays open.

    Raises ConfigError for what is none, or is not to be written.
    """
    path = None if isinstance(name, int) else place(name)
    label = f"file descriptor {name}" if path is None else str(path)
    try:
        fd = os.open(f"/proc/self/fd/{name}" if path is None else path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = (
            ": a pool is written by all who use it" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
        )
        raise ConfigError(f"{label} cannot be opened ({error.strerror}){hint}") from None
    try:
        arena = _mapped(fd, _read(fd, label))
    except BaseException:
        os.close(fd)
        raise
    arena.path = path
    return arena


def _read(fd: int, label: str) -> dict[str, Any]:
    size = os.fstat(fd).st_size
    head = os.pread(fd, HEADER, 0)
    if not head.startswith(MAGIC):
        raise ConfigError(f"{label} is no pool, or is not ready yet: expected a file that a shared PagePool made")
    try:
        (length,) = struct.unpack_from("<I", head, len(MAGIC))
        facts: dict[str, Any] = json.loads(head[len(MAGIC) + 4 : len(MAGIC) + 4 + length])
        needed = int(facts["first"]) + int(facts["nr_pages"]) * PAGE_SIZE
    except (struct.error, ValueError, KeyError, TypeError):
        raise ConfigError(f"{label}: the header of the pool is damaged; make the pool again") from None
    if needed > size:
        raise ConfigError(f"{label} has {size} bytes of {needed}: it was cut; make the pool again")
    return facts


def _enter(fd: int) -> int:
    """
    The first number that no process of the pool has; its byte is locked as long as this open file lives.
    """
    for number in range(1, PROCESSES + 1):
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                continue
            raise
        return number
    raise ConfigError(f"the pool has {PROCESSES} processes already, which is the most")
