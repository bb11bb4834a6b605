"""
Print the short name of the running interpreter: 3.12, or 3.13t for a free-threaded one.

Fails for one that cannot build the package: too old, or without headers, venv or ensurepip.
"""

import ensurepip
import os
import sys
import sysconfig
import venv

assert sys.version_info >= (3, 11)
assert ensurepip
assert venv
assert os.path.exists(sysconfig.get_path("include") + "/Python.h")
print(f"{sys.version_info[0]}.{sys.version_info[1]}{'t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''}")
