#!/bin/sh
# Says how many tests were skipped, and which: `sh scripts/skipped.sh LIST`. LIST has a test's name per line, perhaps
# more than once, and is absent where none was skipped.
set -eu
[ -f "$1" ] || {
    echo "0 tests skipped"
    exit 0
}
sort -u "$1" | awk '
    { names = names (NR > 1 ? ", " : "") $0 }
    END { printf "%d tests skipped: %s (they need ../shared or fetched weights)\n", NR, names }'
