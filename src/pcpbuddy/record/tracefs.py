"""
An instance of tracefs of our own: made, written to, read from, and gone afterwards, whatever becomes of us.

All that is changed is inside of the instance, so removing it restores all. Who holds the instance holds a lock on its
folder; one that nobody holds was left behind. A watcher, a small process of its own session, waits at a pipe: when the
recorder vanishes without a word, it removes the instance, and the mount if that was ours.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..errors import UsageError

__all__ = ["PREFIX", "Instance", "Tracefs", "leftovers", "mounted", "remove"]

PREFIX = "pcpbuddy-"
SETTLED_S = 2.0  # an instance that is younger may not have been locked yet
WAIT_S = 5.0
# Standard library only, and no import of ours: it must start while the recorder may be killed already.
WATCHER = """
import os, signal, subprocess, sys, time
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
instance, mount = sys.argv[1:3]
if os.read(0, 1) == b"":
    for name, value in (("tracing_on", "0"), ("events/enable", "0")):
        try:
            open(instance + "/" + name, "w").write(value)
        except OSError:
            pass
    for _ in range(200):
        if not os.path.isdir(instance):
            break
        try:
            os.rmdir(instance)
        except OSError:
            time.sleep(0.05)
    if mount:
        subprocess.call(["umount", mount], stderr=subprocess.DEVNULL)
        try:
            os.rmdir(mount)
        except OSError:
            pass
"""


class Tracefs:
    """
    Where tracefs is. Mounts it in a folder of its own where nobody has, and then takes that away again.
    """

    def __init__(self) -> None:
        self.ours: Path | None = None
        found = mounted()
        self.root = found if found is not None else self._mount()
        if not os.access(self.root / "instances", os.W_OK):
            raise UsageError(
                f"{self.root}/instances cannot be written; recording needs root: use sudo, or hand the script of "
                "`pcpbuddy record --print` to who may"
            )

    def _mount(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="pcpbuddy-tracefs-"))
        done = subprocess.run(
            ["mount", "-t", "tracefs", "nodev", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            folder.rmdir()
            raise UsageError(
                "tracefs is not mounted and cannot be ("
                f"{(done.stderr.strip().splitlines() or ['mount failed'])[0]}); recording needs root and a kernel with "
                "ftrace: use sudo, or hand the script of `pcpbuddy record --print` to who may"
            )
        self.ours = folder
        return folder

    def close(self) -> None:
        """
        Take our mount away, if there is one.
        """
        if self.ours is not None:
            subprocess.run(["umount", str(self.ours)], capture_output=True, check=False)
            with contextlib.suppress(OSError):
                self.ours.rmdir()
            self.ours = None

    def text(self, name: str) -> str:
        """
        A file of it; empty if it is not there.
        """
        with contextlib.suppress(OSError):
            return (self.root / name).read_text(errors="replace")
        return ""


def mounted() -> Path | None:
    """
    Where tracefs is mounted already.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            words = line.split()
            if len(words) > 2 and words[2] == "tracefs" and os.path.isdir(f"{words[1]}/instances"):
                return Path(words[1])
    return None


class Instance:
    """
    Our own instance, from its making to its end; used as a context.
    """

    def __init__(self, tracefs: Tracefs) -> None:
        self.path = tracefs.root / "instances" / f"{PREFIX}{os.getpid()}"
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCHER, str(self.path), str(tracefs.ours or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        try:
            self.path.mkdir()
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._dismiss()
            raise UsageError(
                f"no instance could be made in {self.path.parent} ({error.strerror}); `pcpbuddy record --clean` "
                "removes those that were left behind"
            ) from None

    def __enter__(self) -> "Instance":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)
        remove(self.path)
        self._dismiss()

    def _dismiss(self) -> None:
        """
        Tell the watcher that all is in order. If it is not, it finds the pipe closed.
        """
        assert self._watcher.stdin is not None
        with contextlib.suppress(OSError):
            if not self.path.exists():
                self._watcher.stdin.write(b".")
            self._watcher.stdin.close()
        self._watcher.wait()

    def write(self, name: str, value: str | int) -> None:
        """
        Into a file of it.
        """
        try:
            (self.path / name).write_text(str(value))
        except OSError as error:
            raise UsageError(f"{self.path}/{name} does not take {value} ({error.strerror})") from None

    def try_write(self, name: str, value: str | int) -> bool:
        """
        The same where older kernels have no such file.
        """
        try:
            (self.path / name).write_text(str(value))
        except OSError:
            return False
        return True

    def text(self, name: str) -> str:
        """
        A file of it.
        """
        return (self.path / name).read_text(errors="replace")


def remove(instance: Path) -> bool:
    """
    Switch an instance off and remove it; it is busy as long as somebody has one of its files open.
    """
    for name in ("tracing_on", "events/enable"):
        with contextlib.suppress(OSError):
            (instance / name).write_text("0")
    end = time.monotonic() + WAIT_S
    while instance.exists():
        try:
            instance.rmdir()
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
    return True


def leftovers(root: Path) -> list[Path]:
    """
    Instances of recorders that are no more: nobody holds the lock, in whatever container.
    """
    found = []
    for path in sorted((root / "instances").glob(f"{PREFIX}*")):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock).st_mtime > SETTLED_S:
                found.append(path)
        except OSError:
            pass  # it is in use
        finally:
            os.close(lock)
    return found
