#!/bin/sh
# Networks of ours and of pyiqa in turns, and a table of both.
#
#   PYTHON=.peers/bin/python STAIRIQA=.peers/StairIQA WORK=.peers benches/peers/pyiqa_networks.sh IMAGES [N [ROUNDS]]
#
# N images are rated (default 4), and N steps trained. NETWORKS, THREADS and WORK (where random weights are kept) may be set, and
# MODES: `rate`, `train` or both. Build first: cargo build --release --example rater_speed
set -eu
images=$1 n=${2:-4} rounds=${3:-3} threads=${THREADS:-2} work=${WORK:-.peers}
here=$(cd "$(dirname "$0")" && pwd)
found=$(mktemp)
trap 'rm -f "$found"' EXIT
side_and_batch() {
    case $1 in hyperiqa) echo 224 4 ;; dbcnn) echo 448 2 ;; musiq) echo 320 2 ;; *) echo 320 4 ;; esac
}
for mode in ${MODES:-rate train}; do
    for network in ${NETWORKS:-hyperiqa dbcnn stairiqa musiq clipiqa resnet50}; do
        [ "$mode $network" != "train clipiqa" ] || continue
        more=""
        [ "$mode" = rate ] || more="--train $(side_and_batch "$network")"
        args="$network $work/$network.pth $images $n --threads $threads"
        for _ in $(seq "$rounds"); do
            # Loading libraries is most of the peer's time, but none of what is counted.
            "${PYTHON:-python3}" "$here/pyiqa_networks.py" $args --stairiqa "${STAIRIQA:-.peers/StairIQA}" $more | sed "s/^{/{\"mode\": \"$mode\", /" >>"$found"
            "${SPEED:-target/release/examples/rater_speed}" $args $more | sed "s/^{/{\"mode\": \"$mode\", /" >>"$found"
        done
    done
done
"${PYTHON:-python3}" - "$found" <<'END'
import json, statistics, sys

rows = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    rows.setdefault((row["mode"], row["network"]), {}).setdefault(row["of"], []).append(row)
print(f"{'':20} {'peer':>10} {'ours':>10} {'ratio':>6} {'GFLOP':>8} {'peer':>8} {'ours':>8} {'product':>8}   (images/s; GFLOP an image; GFLOP/s)")
for (mode, network), both in rows.items():
    peer, ours = (statistics.median(row["seconds"] for row in both[of]) for of in ("peer", "agiqa"))
    gflop, product = (statistics.median(row[key] for row in both["peer"]) for key in ("gflop", "product_gflops"))
    means = [both[of][0]["mean"] for of in ("peer", "agiqa")]
    print(f"{mode + ' ' + network:20} {1 / peer:10.3f} {1 / ours:10.3f} {peer / ours:6.2f} {gflop:8.1f} {gflop / peer:8.0f} {gflop / ours:8.0f} {product:8.0f}   mean {means[0]:.6g} {means[1]:.6g}")
END
