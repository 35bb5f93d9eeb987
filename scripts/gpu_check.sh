#!/bin/sh
# Checks the program on one NVIDIA GPU and prints a table of speeds. It builds nothing and takes under six minutes:
#
#   sh scripts/gpu_check.sh [BIN [IMAGES]]
#
# BIN is a folder with `agiqa` and the example `gpu_probe`, built with CUDA=1; default: target/release. IMAGES is a folder
# with pictures, which are repeated for the speeds; default: data.example/images. WEIGHTS may name a folder of large
# checkpoints: `maniqa` and `mplug-owl2` below it are timed as well as the fetched networks.
#
# Checked: every tiny network on the GPU in f32 and f16 against the CPU's f32 numbers; equal bits in every composition of
# a batch; resuming after `kill -9`; halving with a real allocation; that TF32 is refused. A failure ends with code 1.
set -eu

die() {
    echo "gpu_check: $*" >&2
    exit 1
}
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$(cd "${1:-$root/target/release}" && pwd)
images=$(cd "${2:-$root/data.example/images}" && pwd)
agiqa=$bin/agiqa
probe=$bin/gpu_probe
[ -x "$probe" ] || probe=$bin/examples/gpu_probe
{ [ -x "$agiqa" ] && [ -x "$probe" ]; } ||
    die "no agiqa or gpu_probe in $bin: CUDA=1 make build, then cargo build --release --locked --example gpu_probe"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
ok() { echo "ok      $*"; }
bad() {
    echo "FAILED  $*"
    failed=1
}
check() { # words, command...
    words=$1
    shift
    if "$@" >"$work/last.log" 2>&1; then ok "$words"; else
        bad "$words"
        tail -n 5 "$work/last.log"
    fi
}

"$agiqa" doctor | grep -A 8 '^cuda'
"$agiqa" doctor --json | grep -q '"cuda_devices":\[\]' && die "libtorch sees no GPU"

# The networks' own checks: TF32, parity of tiny networks, batches, memory. One line each.
"$probe" check || failed=1

# Small networks, as the program computes them. `dinov2-s14` and `clip-b16` need `agiqa weights fetch`.
few=$work/few
mkdir "$few"
find "$images" -type f \( -name '*.jpg' -o -name '*.png' \) | sort | head -n 24 | while read -r picture; do
    cp "$picture" "$few/"
done
features() { # store, options...
    store=$work/$1
    shift
    "$agiqa" --quiet features --images "$few" --dataset few --store "$store" "$@"
}
check "a device with TF32 forced on is refused" sh -c \
    "NVIDIA_TF32_OVERRIDE=1 '$agiqa' features --images '$few' --dataset few --store '$work/tf32' --extractor dinov2-s14 \
        --device cuda:0 2>&1 | grep 'TF32'"

for extractor in dinov2-s14 clip-b16; do
    side=224
    check "$extractor: f32 on the CPU" features cpu --extractor $extractor --side $side --device cpu --dtype f32
    for dtype in f32 f16; do
        check "$extractor: $dtype on the GPU" \
            features gpu-$dtype --extractor $extractor --side $side --device cuda:0 --dtype $dtype --batch-size 8
    done
    check "$extractor: the same batches again give the same bits" \
        features again --extractor $extractor --side $side --device cuda:0 --dtype f16 --batch-size 8
done
check "f32 agrees with the CPU" "$probe" compare "$work/cpu" "$work/gpu-f32" 2e-4
check "f16 agrees with the CPU" "$probe" compare "$work/cpu" "$work/gpu-f16" 3e-2
check "two runs agree in every bit" "$probe" compare "$work/gpu-f16" "$work/again" 0

# 2,048 images of 5,477 tokens fit no GPU. The run goes on with as many as fit.
check "a batch that exceeds the memory is halved" sh -c \
    "'$agiqa' features --images '$few' --dataset few --store '$work/oom' --extractor dinov2-s14 --side 1036 --device cuda:0 \
        --dtype f32 --batch-size 2048 2>&1 | grep 'the device is out of memory: continuing with'"

# A killed run loses at most its last part, and the next one leaves what an undisturbed run leaves.
# The program itself is started: the number of a function would be that of a shell, whose child lives on.
"$agiqa" --quiet features --images "$few" --dataset few --store "$work/killed" --extractor dinov2-s14 --side 224 \
    --device cuda:0 --dtype f16 --batch-size 8 --part-rows 8 &
killed=$!
sleep 3
kill -9 $killed 2>/dev/null || bad "the run to be killed had ended before"
wait $killed 2>/dev/null || :
check "a run after kill -9 completes the store" \
    features killed --extractor dinov2-s14 --side 224 --device cuda:0 --dtype f16 --batch-size 8
check "its bits are those of an undisturbed run" "$probe" compare "$work/gpu-f16" "$work/killed" 0 dinov2-s14

# Speeds: images per second of whole runs without start, and the share of the time that the GPU was busy.
many=$work/many
mkdir "$many"
n=0
"$probe" pictures "$images" "$many" "${N_IMAGES:-1500}"
speed() { # label, options...
    label=$1
    shift
    smi=$work/smi
    nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -lms 200 >"$smi" 2>/dev/null &
    watching=$!
    "$agiqa" features --images "$many" --dataset many --store "$work/speed-$n" --device cuda:0 "$@" >"$work/last.log" 2>&1 ||
        { kill $watching; bad "$label"; tail -n 3 "$work/last.log"; return; }
    kill $watching 2>/dev/null || :
    rate=$(tr '\r' '\n' <"$work/last.log" | sed -n 's/.* \([0-9.]*\) images\/s.*/\1/p' | tail -n 1)
    busy=$(awk '$1 > 0 { sum += $1; n++ } END { printf "%.0f", n ? sum / n : 0 }' "$smi")
    printf '| %s | %s | %s %% |\n' "$label" "$rate" "$busy"
    n=$((n + 1))
}
"$probe" products
echo '| network, type | images/s | GPU busy |'
echo '|---|---|---|'
for dtype in f16 bf16 f32; do
    speed "clip-b16 224+336+512, $dtype" --extractor clip-b16 --dtype $dtype
    speed "dinov2-s14 392, $dtype" --extractor dinov2-s14 --dtype $dtype
    for network in maniqa mplug-owl2; do
        [ -n "${WEIGHTS:-}" ] && [ -d "${WEIGHTS:-}/$network" ] || continue
        [ "$dtype $network" != "f32 mplug-owl2" ] || continue
        speed "$network, $dtype" --extractor $network --weights "$WEIGHTS/$network" --dtype $dtype
    done
done
[ $failed = 0 ] || die "some checks failed, see above"
echo "gpu_check: all checks passed"
