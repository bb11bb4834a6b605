"""
One reader under Atheris: every input is rows, or one sentence that names the file; never anything else.

Run by run.py, which preloads the library that sees into the compiled readers:

    target.py READER PARSE.so FINDINGS [libFuzzer's options, a corpus, or inputs to try once]
"""

import importlib.util
import sys
import tempfile
import traceback
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import atheris

READER, COMPILED, FINDINGS = sys.argv[1], sys.argv[2], Path(sys.argv[3])


class Instrumented:
    """
    Imports the instrumented ``_parse`` in place of the package's.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        """
        A spec for this one module.
        """
        if name != "pcpbuddy.trace._parse":
            return None
        return importlib.util.spec_from_file_location(name, COMPILED, loader=ExtensionFileLoader(name, COMPILED))


sys.meta_path.insert(0, Instrumented)
with atheris.instrument_imports(include=["pcpbuddy.trace", "pcpbuddy.recording.proctexts"]):
    import pcpbuddy.trace
    from pcpbuddy.errors import PcpBuddyError
    from pcpbuddy.recording import proctexts

import seeds  # noqa: E402  the readers must come instrumented
from test_trace_fuzz import look_at  # noqa: E402

# Room is made for all of it each time; and batches end where rows are few.
pcpbuddy.trace.raw.LARGEST_TEXT = 2 * seeds.LONGEST
pcpbuddy.trace.text.BATCH_ROWS = pcpbuddy.trace.rings.BATCH_ROWS = 16


def read(folder: Path, files: dict[str, bytes]) -> None:
    """
    What an input is given to.
    """
    if READER == "proc":
        proctexts.parse({"zoneinfo": ""} | {name: data.decode("utf-8", "replace") for name, data in files.items()})
        return
    for name, data in files.items():
        (folder / name).write_bytes(data)
    look_at(folder if READER == "raw" else folder / seeds.FILE)


def said_well(error: PcpBuddyError, folder: Path) -> None:
    """
    One line that names the file.
    """
    said = str(error)
    assert said.isprintable(), said
    names = seeds.PARTS["proc"] if READER == "proc" else (folder.name, *seeds.parts(READER, b"").keys())
    assert any(name in said for name in names), said


def try_one(data: bytes) -> None:
    """
    An input; a finding is kept with what it said, once for each place, and the search goes on.
    """
    try:
        try:
            read(FOLDER, seeds.parts(READER, data))
        except PcpBuddyError as error:
            said_well(error, FOLDER)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found = FINDINGS / f"{READER}-{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}"
        if not found.exists():
            found.write_bytes(data)
            found.with_suffix(".txt").write_text(traceback.format_exc())
            traceback.print_exc()
    finally:
        for path in FOLDER.iterdir():
            path.unlink()


FOLDER = Path(tempfile.mkdtemp())  # run.py removes it
atheris.Setup([sys.argv[0], *sys.argv[4:]], try_one)
atheris.Fuzz()
