"""
Where a trace comes from: a file, a pipe or standard input; plain or compressed; and what its first bytes say it is.
"""

import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from ..arrow import arrow
from ..errors import TraceError

__all__ = ["HEAD_BYTES", "Source", "shown", "unzstd", "zstd_block"]

HEAD_BYTES = 1 << 16
MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
_DAMAGE = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)


class Source(io.RawIOBase):
    """
    The bytes of a trace, uncompressed, one after the other.

    path: a file, or "-" for standard input. name: how messages call it. size_bytes: of the file, None for a pipe.
    done_bytes: read of it so far. digest: whether to keep a SHA-256 of the file, which ``sha256`` gives at the end.
    file: what to read instead of opening path. Raises TraceError for what cannot be opened or read, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, digest: bool = False, file: Any = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.name = "standard input" if str(path) == "-" else shown(self.path.name or str(path))
        self._file = _Counted(file or _open(self.path, self.name), hashlib.sha256() if digest else None)
        self.size_bytes: int | None = self._file.size_bytes
        start = self._file.read_fully(6)
        self._file.unread(start)
        self.packed = next((how for magic, how in MAGICS.items() if start.startswith(magic)), None)
        self._stream: Any = self._unpacked()
        self.head = b""
        while len(self.head) < HEAD_BYTES and (more := self._read(HEAD_BYTES - len(self.head))):
            self.head += more
        self._left = self.head

    def _unpacked(self) -> Any:
        if self.packed == "gzip":
            return gzip.GzipFile(fileobj=self._file, mode="rb")
        if self.packed == "xz":
            return lzma.LZMAFile(cast(IO[bytes], self._file), "rb")
        if self.packed == "zstd":
            return unzstd(self._file, self.name)
        return self._file

    def _read(self, count: int) -> bytes:
        try:
            got: bytes = self._stream.read(count)
        except TraceError:
            raise
        except _DAMAGE as error:
            raise TraceError(
                f"{self.name}, byte {self.done_bytes}: the {self.packed or 'file'} is cut off or damaged "
                f"({first_line(error)}); copy or record it again"
            ) from None
        return got

    @property
    def done_bytes(self) -> int:
        """
        Bytes of the file, as it is stored, that were read so far.
        """
        return self._file.done_bytes

    @property
    def sha256(self) -> str | None:
        """
        Of the file as it is stored, once it was read to its end.
        """
        return self._file.digest.hexdigest() if self._file.digest else None

    def readable(self) -> bool:
        """
        True.
        """
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Up to as many bytes as there is room for; 0 at the end.
        """
        view = memoryview(buffer).cast("B")
        if self._left:
            count = min(len(view), len(self._left))
            view[:count] = self._left[:count]
            self._left = self._left[count:]
            return count
        if self._stream is self._file:
            try:
                return int(self._file.readinto(view))
            except OSError as error:
                raise TraceError(f"{self.name}, byte {self.done_bytes}: cannot be read: {error.strerror}") from None
        got = self._read(min(len(view), 1 << 18))
        view[: len(got)] = got
        return len(got)

    @contextlib.contextmanager
    def seekable_file(self) -> Iterator[IO[bytes]]:
        """
        The uncompressed bytes as a file to seek in: the file itself, or a temporary one that holds them.
        """
        if self.packed is None and self.size_bytes is not None and str(self.path) != "-":
            if self._file.digest:
                while self._file.read(1 << 20):
                    pass
            with self.path.open("rb") as file:
                yield file
            return
        with tempfile.TemporaryFile() as spooled:
            shutil.copyfileobj(self, spooled, 1 << 20)
            spooled.flush()
            yield spooled

    def close(self) -> None:
        """
        Close the file; standard input stays open.
        """
        if not self.closed:
            self._file.close()
        super().close()


class _Counted(io.RawIOBase):
    """
    A file that counts what was read of it, and can take its first bytes back.
    """

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        super().__init__()
        self._file, self.digest = file, digest
        self._back = b""
        self.done_bytes = 0
        self.size_bytes: int | None = None
        with contextlib.suppress(OSError, ValueError):
            if file.seekable():
                self.size_bytes = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._back:
            count = min(len(view), len(self._back))
            view[:count] = self._back[:count]
            self._back = self._back[count:]
            return count
        count = self._file.readinto(view) or 0  # type: ignore[attr-defined]
        self.done_bytes += count
        if self.digest is not None:
            self.digest.update(view[:count])
        return count

    def read_fully(self, count: int) -> bytes:
        """
        So many bytes, fewer only at the end.
        """
        data = b""
        while len(data) < count and (more := self.read(count - len(data))):
            data += more
        return data

    def unread(self, data: bytes) -> None:
        self._back = data + self._back

    def close(self) -> None:
        if not self.closed and self._file is not sys.stdin.buffer:
            self._file.close()
        super().close()


def _open(path: Path, name: str) -> BinaryIO:
    if str(path) == "-":
        return sys.stdin.buffer
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise TraceError(f"{name} cannot be read: {error.strerror}") from None


def unzstd(file: IO[bytes] | io.RawIOBase, name: str) -> Any:
    """
    A stream of what a zstd stream holds: by the standard library from 3.14 on, else by pyarrow.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(file, "rb")
    pa = arrow(f"{name} is compressed with zstd; reading it", TraceError)
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


def zstd_block(data: bytes, size: int) -> bytes:
    """
    One block of zstd that is ``size`` bytes long when unpacked. Raises ValueError or OSError if it is not.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd

        unpacked: bytes = zstd.ZstdDecompressor().decompress(data, max_length=size)
        return unpacked
    pa = arrow("the trace is compressed with zstd; reading it", TraceError)
    block: bytes = pa.Codec("zstd").decompress(data, decompressed_size=size, asbytes=True)
    return block


def shown(text: str | bytes, most: int = 80) -> str:
    """
    A text from outside as it may be shown: one line of printable ASCII, not long.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    text = "".join(
        one if " " <= one <= "~" else one.encode("unicode_escape", "backslashreplace").decode() for one in text
    )
    return text if len(text) <= most else text[: most - 3] + "..."


def first_line(error: BaseException) -> str:
    """
    The first line of what an error says.
    """
    return shown(str(error).strip().split("\n")[0] or type(error).__name__, 120)
