"""
The file of a run: a zip archive, nothing in it compressed or dated, so that the same run gives the same bytes anywhere.

``run.json`` has the schema, the digest and the manifest, ``metrics.json`` the figures; ``cpus.npy``, ``samples.npy``
and ``counts.npy`` are arrays of records, and ``holds.npy`` is there where a log of locks was kept.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from . import Run

__all__ = ["SCHEMA", "digest", "load", "save"]

SCHEMA = "pcpbuddy.run/1"
PROGRAM = ("version", "commit", "python", "numpy", "machine")  # of the manifest: what made it, not what it is
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive can have


def digest(run: "Run") -> str:
    """
    SHA-256 of the content, without what is said of program and machine.
    """
    sha = hashlib.sha256()
    asked = {key: value for key, value in run.manifest.items() if key not in PROGRAM}
    sha.update(_json(asked) + _json(run.metrics))
    for array in _arrays(run).values():
        sha.update(repr(array.dtype.descr).encode() + np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def save(run: "Run", path: Path) -> None:
    """
    Write the file, whole or not at all.
    """
    head = {"schema": SCHEMA, "digest": digest(run), "manifest": run.manifest}
    entries = {"run.json": _json(head), "metrics.json": _json(run.metrics)}
    entries |= {f"{name}.npy": _npy(array) for name, array in _arrays(run).items()}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), content)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(data.getvalue())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def load(
    path: Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray | None]:
    """
    Head (schema, digest, manifest), metrics, cpus, samples, counts, holds.

    Raises UsageError for a file that is no run's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read("run.json"))
            if head["schema"] != SCHEMA:
                raise UsageError(f"{path} is a run of schema {head['schema']}; this version reads {SCHEMA}")
            metrics = json.loads(archive.read("metrics.json"))
            there = [name for name in ("holds",) if f"{name}.npy" in archive.namelist()]
            arrays = {
                name: np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                for name in ("cpus", "samples", "counts", *there)
            }
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except UsageError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError):
        raise UsageError(f"{path} is no run, or damaged; `pcpbuddy run WORKLOAD -o FILE` writes one") from None
    cpus = {name: arrays["cpus"][name] for name in arrays["cpus"].dtype.names or ()}
    return head, metrics, cpus, arrays["samples"], arrays["counts"], arrays.get("holds")


def _arrays(run: "Run") -> dict[str, np.ndarray]:
    """
    All arrays of a run, in the order in which the file has them.
    """
    cpus = np.zeros(len(next(iter(run.cpus.values()))), [(name, column.dtype) for name, column in run.cpus.items()])
    for name, column in run.cpus.items():
        cpus[name] = column
    kept = {} if run.holds is None else {"holds": run.holds}
    return {"cpus": cpus, "samples": run.samples, "counts": run.counts, **kept}


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(array), allow_pickle=False)
    return data.getvalue()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
