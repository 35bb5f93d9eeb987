#!/bin/sh
# Kills an extraction at random moments, resumes it each time, and compares the final tables with an undisturbed run's.
#
#   benches/kill_and_resume.sh IMAGES [KILLS] [MORE OPTIONS OF agiqa features...]
#
# For example, 20 kills over a folder of a few hundred images of AGIQA-3K (some minutes):
#
#   benches/kill_and_resume.sh ../agiqa-3k/images 20 --side 224 --part-rows 16
set -eu
images=$1
kills=${2:-20}
[ $# -ge 2 ] && shift 2 || shift 1
cargo build --quiet --release --bins --examples
agiqa=target/release/agiqa
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

start=$(date +%s)
"$agiqa" --quiet features --images "$images" --dataset corpus --store "$work/undisturbed" "$@"
secs=$(($(date +%s) - start + 1))
echo "undisturbed: $secs s"

n=0
while [ "$n" -lt "$kills" ]; do
    "$agiqa" --quiet features --images "$images" --dataset corpus --store "$work/killed" "$@" &
    pid=$!
    # Somewhere in the first fifth of what an undisturbed run takes, so that the kills spread over the whole work.
    sleep "$(awk -v seed="$(od -An -N4 -tu4 /dev/urandom)" -v secs="$secs" \
        'BEGIN { srand(seed); printf "%.2f", rand() * secs / 5 }')"
    kill -9 "$pid" 2>/dev/null && n=$((n + 1)) || { echo "finished after $n kills"; break; }
    wait "$pid" 2>/dev/null || true
    echo "kill $n: $(find "$work/killed" -name 'part-*.parquet' -path '*features*' 2>/dev/null | wc -l) parts"
done
"$agiqa" --quiet features --images "$images" --dataset corpus --store "$work/killed" "$@"
target/release/examples/same_features "$work/undisturbed" "$work/killed"
echo "the tables are equal"
