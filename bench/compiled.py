"""
What the benchmarks compile at run time, each into a folder that goes away: reference.c, lines.c and empty.pyx.
"""

import ctypes
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

__all__ = ["empty_module", "lines_library", "reference_library"]

HERE = Path(__file__).resolve().parent


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def reference_library(folder: Path) -> ctypes.CDLL:
    """
    The lock buddy of reference.c, built with -O2.
    """
    library = _library(folder, "reference")
    library.ref_new.restype = ctypes.c_void_p
    library.ref_new.argtypes = [ctypes.c_uint32, ctypes.c_uint32]
    for name in ("ref_run", "ref_fill", "ref_allocated"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]
        getattr(library, name).restype = None
    for name in ("ref_delete", "ref_save", "ref_restore"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = None
    for name in ("ref_failed", "ref_skipped"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_uint64
    return library


def lines_library(folder: Path) -> Any:
    """
    The function of lines.c, built with -O2: lines(bytes, size) -> int.
    """
    lines = _library(folder, "lines").lines
    lines.argtypes = [ctypes.c_char_p, ctypes.c_ulong]
    lines.restype = ctypes.c_ulong
    return lines


def _library(folder: Path, name: str) -> ctypes.CDLL:
    target = folder / f"{name}.so"
    source = HERE / f"{name}.c"
    command = [*_compiler(), "-O2", "-std=gnu11", "-Wall", "-fPIC", "-shared", "-o", str(target), str(source)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


def empty_module(folder: Path) -> Any:
    """
    The empty class of empty.pyx, built as the core is: same Cython, same compiler, -O3.
    """
    c_file = folder / "empty.c"
    target = folder / f"empty{sysconfig.get_config_var('EXT_SUFFIX')}"
    cython = [
        sys.executable,
        "-m",
        "cython",
        "-3",
        "--module-name",
        "empty",
        "-o",
        str(c_file),
        str(HERE / "empty.pyx"),
    ]
    subprocess.run(cython, check=True)
    include = sysconfig.get_paths()["include"]
    flags = ["-O3", "-std=gnu11", "-fno-strict-aliasing", "-DNDEBUG", "-fPIC", "-shared", f"-I{include}"]
    subprocess.run([*_compiler(), *flags, "-o", str(target), str(c_file)], check=True)
    spec = importlib.util.spec_from_file_location("empty", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
