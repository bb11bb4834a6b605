"""
Every exception that pcpbuddy raises on purpose, under one root.

A message says what was seen, what was expected, and what to do. Anything
else that escapes is a bug and comes as a traceback.
"""

__all__ = [
    "BadFree",
    "ConfigError",
    "Corruption",
    "CpuOffline",
    "OutOfPages",
    "PcpBuddyError",
    "PoolBroken",
    "RecordingError",
    "TraceError",
    "UsageError",
]


class PcpBuddyError(Exception):
    """
    The root: catch this to catch everything that pcpbuddy raises on purpose.
    """


class UsageError(PcpBuddyError, ValueError):
    """
    An argument that cannot be meant: an order, migratetype, CPU or pfn out of range.
    """


class ConfigError(UsageError):
    """
    A policy, switch, size or profile that does not exist or cannot be.
    """


class CpuOffline(UsageError):
    """
    The operation names a CPU that is off-line, or would off-line the last one.
    """


class BadFree(UsageError):
    """
    A free of something that is not the head of an allocation of that order.
    """


class OutOfPages(PcpBuddyError, MemoryError):
    """
    No zone had a chunk for the request under its flags and watermarks.
    """


class PoolBroken(PcpBuddyError):
    """
    A process of a shared pool died in the middle of a change: its lists cannot be trusted any more.
    """


class Corruption(PcpBuddyError):
    """
    ``check()`` found a broken invariant; the message names the rule, the page and the state.
    """


class RecordingError(PcpBuddyError):
    """
    A file is not a recording, is damaged, or does not belong to its snapshot.
    """


class TraceError(PcpBuddyError):
    """
    A trace that cannot be read: another form, damaged, cut off; the message names the file and the place in it.
    """
