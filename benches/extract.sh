#!/bin/sh
# Images per second and peak memory of a whole extraction (decoding, network, writing), per number type.
#
#   benches/extract.sh IMAGES [OPTIONS OF agiqa features...]
#
# For example, the default extractor at 224 px on two threads: benches/extract.sh ../agiqa-3k/images --side 224 --threads 2
set -eu
images=$1
shift
cargo build --quiet --release
for dtype in f32 bf16; do
    work=$(mktemp -d)
    /usr/bin/time -f "$dtype: %e s in all, peak memory %M kB" \
        target/release/agiqa features --images "$images" --dataset corpus --store "$work" --dtype "$dtype" "$@"
    rm -rf "$work"
done
