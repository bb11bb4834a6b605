"""
The same recorder as a short script for a POSIX shell, for machines where nothing may be installed.
"""

import shlex

from .events import WANTED

__all__ = ["script"]

TEXT = r"""#!/bin/sh
# Records what the page allocator does, through tracefs: @FOR@ seconds, buffers of @KB@ KiB on each CPU, of which
# the last events are kept. One event costs some hundred nanoseconds; it is one for each page allocated and freed.
# All that is changed is in an instance of its own, which is removed at the end, also when this script is killed.
# Needs root. Made by `pcpbuddy record --print`; `pcpbuddy doctor FOLDER` and `pcpbuddy compare FOLDER` read the folder.
#   sh record.sh [FOLDER [COMMAND ...]]
set -u
out=${1:-pcpbuddy-$(date +%Y%m%d-%H%M%S)}
[ $# -gt 0 ] && shift
T=$(awk '$3 == "tracefs" { print $2; exit }' /proc/mounts)
ours=
if [ -z "$T" ]; then
  T=$(mktemp -d) && mount -t tracefs nodev "$T" || { echo "record: cannot mount tracefs; run as root" >&2; exit 2; }
  ours=$T
fi
I=$T/instances/pcpbuddy-$$
end() {
  [ -f "$out/.cat" ] && kill "$(cat "$out/.cat")"; rm -f "$out/.cat"
  echo 0 > "$I/tracing_on"; echo 0 > "$I/events/enable"
  n=0; while [ -d "$I" ] && [ $n -lt 50 ]; do rmdir "$I" || sleep 1; n=$((n + 1)); done
  [ -n "$ours" ] && umount "$ours" && rmdir "$ours"
} 2>/dev/null
[ -e "$out" ] && { echo "record: $out exists; give another folder" >&2; exit 2; }
mkdir "$out" "$out/events" "$out/@WHEN@" "$out/after" || exit 2
# The watcher: when this shell is gone, however it went, the fifo ends, and it takes the instance away.
mkfifo "$out/.alive" || exit 2
( trap '' INT TERM HUP; cat > /dev/null; end ) < "$out/.alive" > /dev/null 2>&1 &
watcher=$!
exec 9> "$out/.alive"
rm "$out/.alive"
over() { trap - EXIT; exec 9>&-; wait "$watcher"; exit "$1"; }
trap 'over 130' INT; trap 'over 143' TERM; trap 'over 129' HUP; trap 'over $?' EXIT
mkdir "$I" || { echo "record: cannot make $I; run as root" >&2; exit 2; }
set_() { echo "$2" > "$I/$1"; }
texts() {
  for f in zoneinfo pagetypeinfo buddyinfo vmstat; do cat /proc/$f > "$out/$1/$f"; done
  grep ': System RAM$' /proc/iomem > "$out/$1/iomem"
} 2>/dev/null
set_ tracing_on 0
clock=global
[ "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource 2>/dev/null)" = tsc ] && clock=mono
set_ trace_clock $clock; set_ buffer_size_kb @KB@; set_ options/overwrite 1
cp "$T/events/header_page" "$T/events/header_event" "$out/"
on=
for e in @EVENTS@ @GROUPS@ ftrace/print; do
  for d in "$T"/events/$e; do
    [ -f "$d/format" ] || continue
    e=${d#"$T"/events/}
    mkdir -p "$out/events/$e" && cat "$d/format" > "$out/events/$e/format"
    [ "$e" = ftrace/print ] && continue
    set_ "events/$e/enable" 1 && on="$on${on:+, }\"$e\""
  done
done
texts @WHEN@
echo "record: on, into $out" >&2
trap 'stopped=INT' INT; trap 'stopped=TERM' TERM
set_ tracing_on 1
if [ $# -gt 0 ]; then "$@" 9>&-; else sleep @FOR@ 9>&- & nap=$!; wait $nap; kill $nap 2>/dev/null; fi
set_ tracing_on 0
texts after
for d in "$I"/per_cpu/cpu*; do
  cpu=${d##*/}
  cat "$d/trace_pipe_raw" > "$out/$cpu.raw" 9>&- & reader=$!
  echo $reader > "$out/.cat"
  n=0
  while [ "$(sed -n 's/^entries: //p' "$d/stats")" != 0 ] && [ $n -lt 600 ]; do sleep 0.1 9>&-; n=$((n + 1)); done
  sleep 0.1 9>&-; kill $reader; wait $reader 2>/dev/null; rm "$out/.cat"
  cat "$d/stats" > "$out/$cpu.stats"
done
cat "$T/saved_cmdlines" > "$out/saved_cmdlines"
printf '{"schema": "pcpbuddy.record/1", "kernel": "%s", "clock": "%s", "events": [%s]}\n' \
  "$(uname -r)" $clock "$on" > "$out/recorder.json"
echo "record: $(cat "$out"/cpu*.raw | wc -c) bytes in $out" >&2
case ${stopped:-} in INT) exit 130;; TERM) exit 143;; esac
exit 0
"""


def script(seconds: float, buffer_bytes: int, *, flight: bool = False) -> str:
    """
    The text. buffer_bytes: of each CPU; the last events that fit are kept.
    """
    events = " ".join(name for name in WANTED if "*" not in name)
    groups = " ".join(name for name in WANTED if "*" in name)
    filled = {
        "FOR": shlex.quote(f"{seconds:g}"),
        "KB": str(max(4, buffer_bytes >> 10)),
        "EVENTS": events,
        "GROUPS": groups,
        "WHEN": "armed" if flight else "before",
    }
    text = TEXT
    for name, value in filled.items():
        text = text.replace(f"@{name}@", value)
    return text
