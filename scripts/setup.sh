#!/bin/sh
# Brings a machine to where cargo can build: system packages, a check of the Rust toolchain, libtorch. What is there
# already is left alone. As root on Debian or Ubuntu, missing packages are installed; otherwise they are named.
# NO_APT=1 only names them.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

say() { echo "setup: $*" >&2; }
die() {
    say "ERROR: $*"
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

required=''
has c++ || required="$required g++"
has cc || required="$required gcc"
has make || required="$required make"
has python3 || required="$required python3"
if ! python3 -m pip --version >/dev/null 2>&1 && ! python3 -c 'import ensurepip' >/dev/null 2>&1; then
    required="$required python3-venv"
fi
# Assembles the JPEG decoder's vector code. Without it decoding gives the same pixels, slower.
optional=''
[ "$(uname -m)" != x86_64 ] || has nasm || optional=' nasm'

install() { # the packages
    say "installing with apt-get:$*"
    export DEBIAN_FRONTEND=noninteractive
    # Short timeouts: without a network this should say so soon.
    options='-qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20'
    # shellcheck disable=SC2086,SC2048 # lists of words
    apt-get $options update >&2 && apt-get $options install -y --no-install-recommends $* >&2
}
if [ -n "$required$optional" ]; then
    if [ "$(id -u)" = 0 ] && has apt-get && [ -z "${NO_APT:-}" ]; then
        install "$required$optional" || say "apt-get could not install everything, see its messages above"
        has nasm && optional=''
        for name in c++ cc make python3; do
            has $name || die "still no $name; install it by hand (of$required) and run this again"
        done
    elif [ -n "$required" ]; then
        die "missing:$required. On Debian or Ubuntu: sudo apt-get install$required$optional"
    fi
    [ -z "$optional" ] || say "warning: nasm is not installed, so JPEG decoding will be slower (Debian, Ubuntu: apt-get install nasm)"
fi

want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
{ has cargo && has rustc; } ||
    die "no Rust toolchain (cargo, rustc); install Rust $want or newer from https://rustup.rs, open a new shell and run this again"
got=$(cd "$root" && rustc --version | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p')
[ "$(printf '%s\n%s\n' "$want" "${got:-0.0}" | sort -V | head -n 1)" = "$want" ] ||
    die "Rust ${got:-of an unknown version} is too old, this needs $want or newer; try: rustup update stable"

exec sh "$here/provision.sh"
