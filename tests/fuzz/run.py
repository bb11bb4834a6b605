"""
Fuzzes every reader of traces, guided by coverage that sees into the compiled ones; see tests/README.md.

    make fuzz FUZZ_MINUTES=10 FUZZ="tracefs dat6"       # minutes a reader; which readers, all if not given
    make fuzz FUZZ=build/fuzz/findings/raw-crash-1f3c   # one input again

Findings lie in build/fuzz/findings, each with what was said beside it; build/fuzz/corpus is kept and built on.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import seeds

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "fuzz"
FINDINGS, COMPILED = WORK / "findings", WORK / "_parse.so"
SECONDS_OF_AN_INPUT = 5
MIB = 512  # of memory for an input, beside what the interpreter has
MOST_CRASHES = 20  # of a reader: further ones would be the same
# Cython itself adds 0 to null pointers; everything else that no C program may do ends the run.
SANITIZE = (
    "-fsanitize=address,undefined,fuzzer-no-link",
    "-fno-sanitize=pointer-overflow",
    "-fno-sanitize-recover=all",
)
FLAGS = ("-fPIC", "-O1", "-g", "-std=gnu11", "-fno-strict-aliasing", "-w", "-DNDEBUG", "-DCYTHON_INLINE=inline")


def build() -> None:
    """
    The compiled reader, instrumented; as it was if no source is newer.
    """
    clang = os.environ.get("CLANG", "clang")
    if not importlib.util.find_spec("atheris"):
        sys.exit(
            "make fuzz needs Atheris, of which Python 3.11 to 3.13 have a build: PYTHON=python3.13 VENV=.venv-fuzz"
        )
    if not shutil.which(clang):
        sys.exit("make fuzz needs clang, which sees what the compiled readers do: apt-get install clang, or set CLANG")
    sources = [*(ROOT / "src/pcpbuddy/trace").glob("*.p*x*"), Path(__file__)]
    if COMPILED.exists() and COMPILED.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    made = WORK / "_parse.c", WORK / "_parse.o"
    cython = [sys.executable, "-m", "cython", "-3", "--module-name", "pcpbuddy.trace._parse", "-I", "src"]
    run = {"check": True, "cwd": ROOT}
    subprocess.run([*cython, "src/pcpbuddy/trace/_parse.pyx", "-o", str(made[0])], **run)
    headers = "-I" + sysconfig.get_path("include")
    subprocess.run([clang, "-c", *FLAGS, *SANITIZE, headers, str(made[0]), "-o", str(made[1])], **run)
    # Not linked by clang, which would want its own runtime: that is in the library that is preloaded.
    subprocess.run([os.environ.get("CC", "cc"), "-shared", str(made[1]), "-o", str(COMPILED)], **run)


def corpus(reader: str) -> Path:
    """
    The folder of a reader's inputs, with the seeds in it.
    """
    folder = WORK / "corpus" / reader
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds.seeds(reader):
        assert len(seed) <= seeds.LONGEST, (reader, len(seed))
        (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    return folder


def child(reader: str, scratch: str, findings: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """
    target.py with the sanitizers' library, until it ends or something is found that ends it.
    """
    spec = importlib.util.find_spec("atheris")
    assert spec is not None
    assert spec.origin is not None
    environment = os.environ | {
        "LD_PRELOAD": str(Path(spec.origin).parents[1] / "asan_with_fuzzer.so"),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16:malloc_context_size=2",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that a byte too far is seen in Python's own objects too
        "TMPDIR": scratch,
    }
    limits = [f"-timeout={SECONDS_OF_AN_INPUT}", f"-rss_limit_mb={MIB + 256}", f"-malloc_limit_mb={MIB}"]
    command = [sys.executable, str(HERE / "target.py"), reader, str(COMPILED), findings, *limits, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")


def fuzz(reader: str, minutes: float) -> str:
    """
    One reader for so long; a line of figures.
    """
    until, folder = time.monotonic() + 60 * minutes, corpus(reader)
    words = WORK / "words.dict"
    runs = crashes = 0
    first = last = None
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        while crashes < MOST_CRASHES and (left := int(until - time.monotonic())) > 0:
            options = (f"-max_total_time={left}", f"-max_len={seeds.LONGEST}", f"-dict={words}")
            ended = child(
                reader, scratch, str(FINDINGS), *options, f"-artifact_prefix={FINDINGS}/{reader}-", str(folder)
            )
            said = ended.stderr
            counted = re.findall(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)", said, re.MULTILINE)
            if not counted:
                sys.exit(f"{reader} did not begin:\n{said[-3000:]}")
            first, last = first or counted[0][1:], counted[-1][1:]
            runs += int(counted[-1][0])
            if ended.returncode:
                crashes += 1
                for name in re.findall(r"Test unit written to (\S+)", said):
                    if "-timeout-" in name and not child(reader, scratch, scratch, name).returncode:
                        Path(name).unlink()  # it was the machine that stood still
                    else:
                        Path(name + ".txt").write_text(said[-20000:])
    found = [path.name for path in FINDINGS.glob(f"{reader}-*") if path.suffix != ".txt"]
    return (
        f"{reader:8} {runs:9} inputs {runs / minutes / 60:7.0f}/s  edges {first[0]:>5} -> {last[0]:>5}  "
        f"features {first[1]:>6} -> {last[1]:>6}  {len(found)} findings"
    )


def again(path: Path) -> None:
    """
    One input, once.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ended = child(path.name.partition("-")[0], scratch, scratch, str(path))
    print(ended.stderr[-6000:])


def main() -> None:
    """
    What the command line asks for.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of each reader")
    parser.add_argument("--jobs", type=int, default=1, help="readers at the same time")
    parser.add_argument("what", nargs="*", help=f"readers ({', '.join(seeds.READERS)}), or an input to try again")
    asked = parser.parse_args()
    FINDINGS.mkdir(parents=True, exist_ok=True)
    build()
    (WORK / "words.dict").write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in sorted(seeds.words()))
    )
    readers = [one for one in asked.what if one in seeds.READERS] if asked.what else list(seeds.READERS)
    for path in [Path(one) for one in asked.what if one not in seeds.READERS]:
        again(path)
    if not readers:
        return
    with ThreadPoolExecutor(asked.jobs) as pool:
        for line in pool.map(lambda reader: fuzz(reader, asked.minutes), readers):
            print(line, flush=True)
    found = [path for path in FINDINGS.iterdir() if path.suffix != ".txt"]
    sys.exit(f"{len(found)} findings in {FINDINGS.relative_to(ROOT)}" if found else 0)


if __name__ == "__main__":
    main()
