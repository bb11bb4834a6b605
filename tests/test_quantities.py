"""
Times, counts and sizes as text, and back.
"""

import pytest

from pcpbuddy.errors import ConfigError
from pcpbuddy.quantities import count_text, ns_exact, ns_text, parse_ns, share_text, size_text, size_words


def test_times_are_read():
    for text, ns in {"10ms": 10_000_000, " 1.5 s ": 1_500_000_000, "250us": 250_000, "7ns": 7, "0ns": 0}.items():
        assert parse_ns(text, "duration") == ns
    assert parse_ns(1234, "duration") == 1234
    assert parse_ns(0.5e3, "duration") == 500


@pytest.mark.parametrize("text", ["10", "ms", "-1ms", "10 m", "3601s", "1e3ms", "", True, None, float("nan"), -5])
def test_other_texts_are_no_times(text):
    with pytest.raises(ConfigError, match=r"^duration=.*: expected a time such as 10ms, with ns, us, ms or s"):
        parse_ns(text, "duration")


def test_exact_times_come_back():
    for ns in (0, 1, 999, 1000, 1500, 1_000_000, 1_234_567, 60_000_000_000):
        assert parse_ns(ns_exact(ns), "t") == ns
    assert ns_exact(20_000_000) == "20ms"


def test_times_are_written_with_three_digits():
    written = {0: "0", 0.5: "0.50ns", 31: "31.0ns", 999.4: "999ns", 999.6: "1.00us", 12345: "12.3us", 4.56e6: "4.56ms"}
    assert {ns: ns_text(ns) for ns in written} == written
    assert ns_text(75e9) == "75.0s"


def test_counts_are_written_with_three_digits():
    written = {0: "0", 12.5: "12.5", 9999: "9999", 12345: "12.3k", 999_999: "1.00M", 4.5e9: "4.50G", 2e12: "2.00T"}
    assert {count: count_text(count) for count in written} == written


def test_a_share_that_is_something_never_looks_like_nothing_or_all():
    written = {0: "0%", 1: "100%", 0.5: "50.0%", 0.034: "3.4%", 0.00012: "0.012%", 1e-9: "1e-07%"}
    assert {share: share_text(share) for share in written} == written


def test_sizes():
    assert [size_text(size) for size in (0, 4096, 3 << 20, 256 << 30)] == ["0B", "4KiB", "3MiB", "256GiB"]
    assert [size_words(size) for size in (4096, 2147336192, 256 << 30)] == ["4KiB", "2.00GiB", "256GiB"]
