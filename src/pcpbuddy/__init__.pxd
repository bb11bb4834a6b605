# `from pcpbuddy cimport PagePool`: see _core/core.pxd.

from ._core.core cimport PagePool
