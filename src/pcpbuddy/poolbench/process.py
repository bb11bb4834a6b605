"""
The process of one allocator at one point, seen from outside.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from ..errors import PcpBuddyError
from .peers import Peer

__all__ = ["Worker"]


class Worker:
    """
    One allocator in a new process, which begins at once; the first question waits until it is ready.

    A session of its own: Ctrl-C goes to whoever asks, who then ends it.
    """

    def __init__(self, peer: Peer, frames: int) -> None:
        self.meta_bytes_per_page = 0.0
        self._frames = frames
        self._ready = False
        self._says = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pcpbuddy.poolbench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._says,
            text=True,
            env=os.environ | peer.environment,
            start_new_session=True,
        )
        cpus = len(os.sched_getaffinity(0))
        # Twice, since whoever keeps lists for each CPU may have pages in them that another CPU looks for.
        self._write({"peer": dataclasses.asdict(peer), "frames": frames, "cpus": max(cpus, 2)})

    def round(self, question: dict[str, Any]) -> dict[str, Any]:
        """
        What a round took. Raises PcpBuddyError with the reason if there is no answer.
        """
        if not self._ready:
            self.meta_bytes_per_page = self._read()["meta_bytes"] / self._frames
            self._ready = True
        self._write(question)
        return self._read()

    def _write(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what became of it is known when it is read from
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise PcpBuddyError(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PcpBuddyError(answer["error"])
        return answer

    def _end(self) -> str:
        """
        How it ended, and the last that it said.
        """
        code = self._process.wait()
        name = f"signal {-code}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
        how = f"its process was ended by {name}" if code < 0 else f"its process ended with exit code {code}"
        self._says.seek(0)
        lines = self._says.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how} ({last})" if last else how

    def close(self) -> None:
        """
        At once, whatever it does.
        """
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._says):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
