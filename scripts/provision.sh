#!/bin/sh
# Puts the libtorch that tch binds into ./.libtorch, from PyPI's torch wheel and the NVIDIA wheels it needs:
#
#   sh scripts/provision.sh           a set that serves: what is there already, else the CPU set
#   sh scripts/provision.sh --cuda    the GPU set (also: CUDA=1)
#   sh scripts/provision.sh --cpu     the CPU set, even where a GPU set lies (also: CUDA=0)
#
# Every wheel is pinned by its sha256 in scripts/libtorch-*.txt. Running it again does nothing. A LIBTORCH that is set
# is checked and left as it is. Needs python3 (3.8 or newer: wheels are only unpacked) with pip or venv.
set -eu

TORCH=2.13.0
LAYOUT=1 # raised when the pinned wheels, or what is unpacked of them, change

here=$(cd "$(dirname "$0")" && pwd)
dst=$(dirname "$here")/.libtorch

say() { echo "provision: $*" >&2; }
die() {
    say "ERROR: $*"
    exit 1
}

flavour=any
case "${CUDA:-}" in '') ;; 0) flavour=cpu ;; 1) flavour=cuda ;; *) die "CUDA=$CUDA: expected 1 (the GPU set) or 0 (the CPU set)" ;; esac
case "${1:-}" in
    '') ;;
    --cpu) flavour=cpu ;;
    --cuda) flavour=cuda ;;
    *)
        echo "usage: $0 [--cpu | --cuda]" >&2
        exit 2
        ;;
esac

# A libtorch of the user's own: cargo would take it, so it has to be the version that tch binds.
if [ -n "${LIBTORCH:-}" ] && [ "$LIBTORCH" != "$dst/torch" ]; then
    [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || [ -e "$LIBTORCH/lib/libtorch_cpu.dylib" ] ||
        die "LIBTORCH=$LIBTORCH has no lib/libtorch_cpu.so; point it at the folder that holds lib/ and include/, or unset it"
    version=$(cat "$LIBTORCH/build-version" 2>/dev/null || sed -n "s/^__version__ = '\(.*\)'/\1/p" "$LIBTORCH/version.py" 2>/dev/null || :)
    case "${version:-unknown}" in
        "$TORCH" | "$TORCH+"*) ;;
        unknown) say "warning: $LIBTORCH does not say its version (no build-version, no version.py); it has to be $TORCH" ;;
        *) die "LIBTORCH=$LIBTORCH is version $version, this build needs $TORCH; unset LIBTORCH to have that one fetched" ;;
    esac
    say "using LIBTORCH=$LIBTORCH (${version:-version unknown})"
    exit 0
fi

# The stamp is written last, so an interrupted run is done again.
have=''
[ ! -e "$dst/torch/lib/libtorch_cpu.so" ] || have=$(cat "$dst/stamp" 2>/dev/null || :)
case "$flavour: $have" in
    "cpu: $TORCH cpu $LAYOUT" | "cuda: $TORCH cuda $LAYOUT" | "any: $TORCH cpu $LAYOUT" | "any: $TORCH cuda $LAYOUT")
        say "libtorch is in place: $dst/torch (stamp: $have)"
        exit 0
        ;;
    any:*) flavour=cpu ;;
esac

system=$(uname -s)-$(uname -m)
[ "$system" = Linux-x86_64 ] ||
    die "wheels are pinned for Linux on x86-64 only, this is $system; install torch $TORCH yourself and set LIBTORCH to its folder (the one with lib/ and include/)"
if [ $flavour = cuda ]; then
    download='2.5 GB' disk='3.6 GB' need_mb=10000
else
    download='539 MB' disk='486 MB' need_mb=2500
fi
pins=$here/libtorch-$flavour.txt

command -v python3 >/dev/null || die "python3 is not installed (Debian, Ubuntu: apt-get install python3 python3-venv)"
rm -rf "$dst/tmp"
mkdir -p "$dst/whl" "$dst/tmp" || die "cannot write to $dst"
free_mb=$(df -Pm "$dst" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge $need_mb ] || die "the $flavour set ($download to download) needs $need_mb MB of free disk while it is unpacked into $dst, which has $free_mb MB; free some, or set LIBTORCH to a libtorch $TORCH elsewhere"

pip="python3 -m pip"
if ! $pip --version >/dev/null 2>&1; then
    say "python3 has no pip, making a temporary virtual environment for one"
    python3 -m venv "$dst/venv" >/dev/null || die "python3 has neither pip nor venv (Debian, Ubuntu: apt-get install python3-venv)"
    pip="$dst/venv/bin/python -m pip"
fi

# Every manylinux tag by name, because older pips do not widen manylinux_2_28 to the lower ones, which NCCL carries.
platforms="--platform manylinux_2_28_x86_64 --platform any --platform manylinux2014_x86_64"
minor=27
while [ $minor -ge 5 ]; do
    platforms="$platforms --platform manylinux_2_${minor}_x86_64"
    minor=$((minor - 1))
done

say "downloading libtorch $TORCH ($flavour set) from PyPI: $download, $disk on disk once unpacked into $dst"
bar=off
[ -t 2 ] && bar=on
# TMPDIR: /tmp may be a small tmpfs, and pip keeps a whole wheel there while it downloads.
# What lies there already, from an interrupted run or brought by hand, counts by its hash and not by its name.
sha256sum "$dst"/whl/*.whl >"$dst/tmp/have.txt" 2>/dev/null || :
# One wheel at a time, because pip keeps none of them when one of them fails.
grep -v '^#' "$pins" | while read -r pin; do
    ! grep -q "^${pin##*sha256:} " "$dst/tmp/have.txt" || continue
    echo "$pin" >"$dst/tmp/pin.txt"
    # shellcheck disable=SC2086 # $pip and $platforms are lists of words
    TMPDIR="$dst/tmp" $pip --disable-pip-version-check download --progress-bar $bar --no-deps --no-cache-dir \
        --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 --abi none $platforms \
        --require-hashes -r "$dst/tmp/pin.txt" -d "$dst/whl" >&2 </dev/null || exit 1
done || die "pip could not get the wheels, see its message above.
  - No network for a moment: run this again, the wheels that have come are kept in $dst/whl
  - No network at all: on a machine that has one, download the cp312 x86-64 Linux wheels named in
    $pins
    copy them into $dst/whl and run this again; files with other hashes are not looked at
  - A mirror of PyPI: set PIP_INDEX_URL to it.
  - libtorch $TORCH is on this machine already: set LIBTORCH to its folder (the one with lib/ and include/).
  - A hash that does not match: the file is not the one that was pinned; do not use it."

rm -f "$dst/stamp"
python3 "$here/unpack_libtorch.py" "$dst" "$pins" $flavour || die "unpacking failed, see above; what was downloaded is kept in $dst/whl"
echo "$TORCH $flavour $LAYOUT" >"$dst/stamp"
[ -n "${KEEP_WHEELS:-}" ] || rm -rf "$dst/whl"
rm -rf "$dst/venv" "$dst/tmp"
say "libtorch $TORCH ($flavour set) is in $dst/torch, $(du -sh "$dst" | cut -f1) on disk"
