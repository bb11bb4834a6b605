"""
``perf.data`` by way of ``perf script``, where perf is installed: nobody else knows that format in all its versions.
"""

import contextlib
import hashlib
import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ..errors import TraceError
from .source import Source, shown

__all__ = ["MAGIC", "PerfSource"]

MAGIC = b"PERFILE2"
# Names of fields instead of perf's own choice: no call chains, times to the nanosecond, the kernel's release on top.
COMMAND = ("script", "--header", "--ns", "-F", "comm,tid,cpu,time,event,trace", "-i")


class PerfSource(Source):
    """
    What perf prints of a ``perf.data``. Size and SHA-256 are those of that file.
    """

    def __init__(self, path: Path, *, digest: bool = False) -> None:
        name, perf = shown(path.name), shutil.which("perf")
        if perf is None:
            raise TraceError(
                f"{name} is a perf.data, which perf itself must read, and perf is not installed; "
                f"where it is: perf script -i FILE | pcpbuddy import - -o FILE.parquet"
            )
        self._digest = _sha256(path) if digest else None
        super().__init__(path, file=_Printed([perf, *COMMAND, str(path.absolute())], name))
        self.size_bytes = path.stat().st_size

    @property
    def done_bytes(self) -> int:
        """
        Of perf's text, which is larger than the file.
        """
        return min(super().done_bytes, self.size_bytes or 0)

    @property
    def sha256(self) -> str | None:
        """
        Of the perf.data.
        """
        return self._digest


class _Printed(io.RawIOBase):
    """
    The output of a command; its failure is an error where its output ends.
    """

    def __init__(self, command: list[str], name: str) -> None:
        super().__init__()
        self._name = name
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  closed with the rest
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._complaints, bufsize=0
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._process.stdout.readinto(buffer)  # type: ignore[union-attr]
        if not count and self._process.wait():
            self._complaints.seek(0)
            said = [line for line in self._complaints.read(1 << 16).splitlines() if b"not valid for" not in line]
            raise TraceError(
                f"{self._name}: perf script failed: {shown(b' '.join(said[:1]) or b'it does not say why')}"
            )
        return count

    def close(self) -> None:
        if not self.closed:
            if self._process.stdout is not None:
                self._process.stdout.close()
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            self._process.wait()
            self._complaints.close()
        super().close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
