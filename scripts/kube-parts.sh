# The parts of the cluster of scripts/kube: its programs, networks and files. Source it there, do not run it.
# shellcheck shell=bash

# --- Programs: started once, and ended by their id -------------------------------------------------------------------

# started_at PID: when it began, which tells it from a later process of the same id.
started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    cut -d' ' -f20 <<<"$stat"
}
note() { echo "$2 $(started_at "$2")" >"$state/run/${1/\//-}"; }
# running NAME: gives its id, if it runs.
running() {
    local pid began
    read -r pid began 2>/dev/null <"$state/run/${1/\//-}" && [ "$(started_at "$pid")" = "$began" ] && echo "$pid"
}

# launch NAME COMMAND…: in the background, with a log, and with an id that `end` knows.
launch() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$state/log/${name/\//-}.log" 2>&1 9>&- &
    note "$name" $!
}
# launch_on NODE NAME COMMAND…: the same on a node. nsenter forks, and its child is what counts.
launch_on() {
    local node=$1 name=$1/$2 entered
    shift 2
    launch "$name" "${on_node[@]}" --target "$(running "$node/init")" "${clean[@]}" "$@"
    entered=$(running "$name") || die "$name ended at once; see $state/log"
    wait_for 10 "$name" child_of "$entered"
    note "$name" "$(child_of "$entered")"
}
on_node=(nsenter --mount --net --pid --uts)
child_of() { grep -o '[0-9]\+' "/proc/$1/task/$1/children"; }
gone() { ! running "$1" >/dev/null; }
# end NAME: asks it to end, and kills it if it has not ended in time.
end() {
    local pid signal
    for signal in TERM KILL; do
        pid=$(running "$1") || break
        kill -$signal "$pid" 2>/dev/null || true
        for _ in {1..200}; do
            gone "$1" && break
            sleep 0.05
        done
    done
    gone "$1" || die "$1 does not end"
    rm -f "$state/run/${1/\//-}"
}

# begin NAME: starts a program that is not running, whichever it is.
begin() {
    [ -z "$(running "$1")" ] || return 0
    case $1 in
        names | registry | private | etcd | apiserver | controllers | scheduler | coredns) "begin_$1" ;;
        n*/containerd | n*/kubelet | n*/proxy) "begin_node_${1#*/}" "${1%/*}" ;;
        *) die "no program $1; scripts/kube status lists them" ;;
    esac
}

# --- What the nodes need beside Kubernetes ---------------------------------------------------------------------------

lan=(nsenter "--net=/run/netns/$id-lan")

make_lan() {
    [ ! -e "/run/netns/$id-lan" ] || return 0
    ip netns add "$id-lan"
    ip -n "$id-lan" link set lo up
    ip -n "$id-lan" link add br0 type bridge
    ip -n "$id-lan" link set br0 up
    local each
    for each in $gateway $open $private $cluster_dns; do
        ip -n "$id-lan" addr add "$each/24" dev br0
    done
    # The nodes reach each other's pods by this.
    "${lan[@]}" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0
}

begin_names() {
    printf '%s\n' "$open registry.test registry.k8s.io" "$private private.test" >"$state/names"
    launch names "${lan[@]}" "${clean[@]}" dnsmasq --keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv \
        --bind-interfaces --pid-file --user=root --log-facility=- --addn-hosts="$state/names" --listen-address=$gateway
}

begin_open_or_private() { # NAME ADDRESS AUTHENTICATION
    printf '%s\n' 'version: 0.1' "storage: {filesystem: {rootdirectory: $state/$1}, delete: {enabled: true}}" \
        "http: {addr: '$2:443', secret: $1, tls: {certificate: $pki/registry.crt, key: $pki/registry.key}}" "$3" >"$state/$1.yml"
    launch "$1" "${lan[@]}" "${clean[@]}" docker-registry serve "$state/$1.yml"
    wait_for 20 "the registry $1" "${lan[@]}" curl -sk "https://$2/v2/"
}
begin_registry() { begin_open_or_private registry $open ''; }
begin_private() {
    [ -s "$state/htpasswd" ] || htpasswd -Bbn alice wonderland >"$state/htpasswd"
    begin_open_or_private private $private "auth: {htpasswd: {realm: private, path: $state/htpasswd}}"
}

# pack DIR PROGRAM NAME: an image with one static program, as an OCI layout below DIR.
pack() {
    local dir=$1 oci=$1/oci type=application/vnd.oci.image layer diff config manifest
    mkdir -p "$dir/root/bin" "$oci/blobs/sha256"
    cp "$2" "$dir/root/bin/$3"
    tar -C "$dir/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$dir/layer" bin
    diff=$(sha256sum "$dir/layer" | cut -d' ' -f1)
    layer=$(blob "$oci" "$dir/layer")
    jq -nc --arg diff "sha256:$diff" --arg name "/bin/$3" --arg arch "$(dpkg --print-architecture)" \
        '{architecture: $arch, os: "linux", config: {Entrypoint: [$name], Env: ["PATH=/bin"]},
          rootfs: {type: "layers", diff_ids: [$diff]}}' >"$dir/config"
    config=$(blob "$oci" "$dir/config")
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",%s},"layers":[{"mediaType":"%s",%s}]}' \
        $type.manifest.v1+json $type.config.v1+json "$config" $type.layer.v1.tar "$layer" >"$dir/manifest"
    manifest=$(blob "$oci" "$dir/manifest")
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s",%s}]}' $type.manifest.v1+json "$manifest" >"$oci/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$oci/oci-layout"
    rm -r "$dir/root"
}
blob() {
    local sum
    sum=$(sha256sum "$2" | cut -d' ' -f1)
    mv "$2" "$1/blobs/sha256/$sum"
    printf '"digest":"sha256:%s","size":%s' "$sum" "$(stat -c %s "$1/blobs/sha256/$sum")"
}

push_images() {
    [ ! -e "$state/images/pushed" ] || return 0
    local kubectl
    # Two images that share nothing: a runtime does not ask for what it has from another image.
    pack "$state/images/pause" "$common/bin/wait" pause
    pack "$state/images/app" "$common/bin/wait" app
    push "$state/images/pause/oci" registry.k8s.io/pause:3.10
    push "$state/images/app/oci" registry.test/app:v1
    push "$state/images/app/oci" private.test/app:v1 --dest-creds=alice:wonderland
    # What the chart's hooks run.
    kubectl=$(sed -n 's/^  image: \(registry.k8s.io[^ ]*\)$/\1/p' deploy/larder/values.yaml)
    if [ -n "$kubectl" ]; then
        pack "$state/images/kubectl" "$state/bin/kubectl" kubectl
        push "$state/images/kubectl/oci" "$kubectl"
    fi
    : >"$state/images/pushed"
}
push() { beside skopeo --insecure-policy copy --quiet --retry-times 3 --preserve-digests "${@:3}" "oci:$1" "docker://$2"; }

# --- The control plane -----------------------------------------------------------------------------------------------

authority() { # NAME SUBJECT
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=$2" \
        -keyout "$pki/$1.key" -out "$pki/$1.crt" 2>/dev/null
}
certificate() { # NAME AUTHORITY SUBJECT [NAMES]
    [ ! -s "$pki/$1.crt" ] || return 0
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$3" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
    openssl x509 -req -in "$pki/$1.csr" -CA "$pki/$2.crt" -CAkey "$pki/$2.key" -CAcreateserial -days 365 -out "$pki/$1.crt" \
        -extfile <(printf '%s\n' extendedKeyUsage=serverAuth,clientAuth ${4:+"subjectAltName=$4"}) 2>/dev/null
}
kubeconfig() { # NAME: for the certificate of that name
    jq -n --arg ca "$pki/cluster.crt" --arg crt "$pki/$1.crt" --arg key "$pki/$1.key" --arg server "https://$gateway:6443" '{
        apiVersion: "v1", kind: "Config", "current-context": "it",
        clusters: [{name: "it", cluster: {server: $server, "certificate-authority": $ca}}],
        users: [{name: "it", user: {"client-certificate": $crt, "client-key": $key}}],
        contexts: [{name: "it", context: {cluster: "it", user: "it"}}]}' >"$pki/$1.conf"
}
make_pki() {
    [ ! -e "$pki/ready" ] || return 0
    local each
    authority cluster kubernetes
    authority front front-proxy
    authority registries registries
    certificate apiserver cluster /CN=kube-apiserver \
        "DNS:kubernetes.default.svc,DNS:kubernetes.default,DNS:kubernetes,IP:$gateway,IP:10.96.0.1"
    certificate registry registries /CN=registries DNS:registry.test,DNS:private.test,DNS:registry.k8s.io
    certificate front-client front /CN=front-proxy-client
    certificate apiserver-kubelet cluster /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate admin cluster /O=system:masters/CN=admin
    certificate coredns cluster /O=system:masters/CN=coredns
    certificate controllers cluster /CN=system:kube-controller-manager
    certificate scheduler cluster /CN=system:kube-scheduler
    certificate proxy cluster /CN=system:kube-proxy
    for each in admin coredns controllers scheduler proxy; do kubeconfig $each; done
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/accounts.key"
    openssl ec -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
    cat /etc/ssl/certs/ca-certificates.crt "$pki/registries.crt" >"$pki/authorities.pem"
    : >"$pki/ready"
}

begin_etcd() {
    launch etcd "${lan[@]}" "${clean[@]}" "$common/etcd/usr/bin/etcd" --data-dir="$state/etcd" --unsafe-no-fsync \
        --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
        --listen-peer-urls=http://127.0.0.1:2380
}
begin_apiserver() {
    launch apiserver "${lan[@]}" "${clean[@]}" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir="$state/run" \
        --advertise-address=$gateway --bind-address=$gateway --secure-port=6443 --service-cluster-ip-range=10.96.0.0/16 \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --client-ca-file="$pki/cluster.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
        --kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
        --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key" \
        --requestheader-client-ca-file="$pki/front.crt" --requestheader-allowed-names=front-proxy-client \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
        --requestheader-username-headers=X-Remote-User \
        --proxy-client-cert-file="$pki/front-client.crt" --proxy-client-key-file="$pki/front-client.key"
}
as_client_of() { # NAME: the arguments that controllers and scheduler share
    local each
    for each in kubeconfig authentication-kubeconfig authorization-kubeconfig; do echo "--$each=$pki/$1.conf"; done
    printf '%s\n' --leader-elect=false --bind-address=127.0.0.1 "--cert-dir=$state/run"
}
begin_controllers() {
    local same
    mapfile -t same < <(as_client_of controllers)
    launch controllers "${lan[@]}" "${clean[@]}" kube-controller-manager "${same[@]}" --use-service-account-credentials=true \
        --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/cluster.crt" \
        --cluster-signing-cert-file="$pki/cluster.crt" --cluster-signing-key-file="$pki/cluster.key"
}
begin_scheduler() {
    local same
    mapfile -t same < <(as_client_of scheduler)
    launch scheduler "${lan[@]}" "${clean[@]}" kube-scheduler "${same[@]}"
}
begin_coredns() {
    printf '%s\n' '.:53 {' "bind $cluster_dns" errors 'kubernetes cluster.local in-addr.arpa {' \
        "kubeconfig $pki/coredns.conf" 'pods insecure' 'fallthrough in-addr.arpa' '}' "forward . $gateway" '}' >"$state/Corefile"
    launch coredns "${lan[@]}" "${clean[@]}" coredns -conf "$state/Corefile"
}

# --- A node ----------------------------------------------------------------------------------------------------------

groups() { find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name "$id-$1"; }
make_groups() {
    local root each
    # A hierarchy for each controller, or one for all of them.
    for root in /sys/fs/cgroup $([ -e /sys/fs/cgroup/cgroup.controllers ] || ls -d /sys/fs/cgroup/*/); do
        [ -e "$root/cgroup.procs" ] || continue
        if [ "$root" = /sys/fs/cgroup ]; then
            # The kubelet wants all of these in its own group, which has only what is passed on to it. One that the machine
            # does not have is refused.
            for each in cpu cpuset memory pids hugetlb; do
                { echo "+$each" >"$root/cgroup.subtree_control"; } 2>/dev/null || true
            done
        fi
        mkdir -p "$root/$id-$1"
        for each in cpuset.cpus cpuset.mems; do
            [ ! -e "$root/$each" ] || cat "$root/$each" >"$root/$id-$1/$each"
        done
    done
}

make_node() { # NAME
    local node=$1 number=${1#n} own=$state/$1 entered
    # What an earlier one has left that was ended by others.
    empty "$id-$node"
    rm -rf "$own"
    mkdir -p "$own"/{lib,log}
    if [ -n "$disk" ]; then
        # A file with holes: it takes what is written to it.
        truncate -s "$disk" "$own/disk"
        mkfs.ext4 -qF -m 0 "$own/disk"
    fi
    certificate "$node" cluster "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$(address "$node")"
    kubeconfig "$node"
    ip netns add "$id-$node"
    ip -n "$id-$node" link set lo up
    ip -n "$id-lan" link add "to-$node" type veth peer name eth0 netns "$id-$node"
    ip -n "$id-lan" link set "to-$node" master br0 up
    ip -n "$id-$node" addr add "$(address "$node")/24" dev eth0
    ip -n "$id-$node" link set eth0 up
    ip -n "$id-$node" route add default via $gateway
    ip -n "$id-lan" route add "$(pods "$node")" via "$(address "$node")"
    nsenter --net="/run/netns/$id-$node" sysctl -qw net.ipv4.ip_forward=1
    nsenter --net="/run/netns/$id-$node" sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
    make_groups "$node"
    node_files "$node" >"$own/files"
    launch "$node/init" nsenter --net="/run/netns/$id-$node" unshare --mount --uts --pid --fork --kill-child \
        bash -euc "$node_init" init "$node" "$own" "$pki/authorities.pem"
    entered=$(running "$node/init") || die "$node ended at once; see $state/log"
    wait_for 20 "$node" test -e "$own/ready"
    note "$node/init" "$(child_of "$entered")"
}

# The first process of a node: it makes the node's own file systems, and reaps what loses its parent. If it ends, all of
# the node ends.
node_init='
    node=$1 own=$2 authorities=$3
    mount --make-rprivate /
    mount -t proc proc /proc
    hostname "$node"
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir /run/etc /run/etc/new /run/etc/work /run/lock
    mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/new,workdir=/run/etc/work overlay /etc
    [ ! -e "$own/disk" ] || mount -o loop "$own/disk" "$own/lib"
    mount -t tmpfs -o mode=755 tmpfs /var/lib
    for each in containerd kubelet larder cni; do
        mkdir -p "$own/lib/$each" "/var/lib/$each"
        mount --bind "$own/lib/$each" "/var/lib/$each"
    done
    mount --bind "$own/log" /var/log
    # A file of the machine may be a link to what is not here.
    rm -rf /etc/resolv.conf /etc/containerd /etc/cni /etc/kubernetes
    mkdir -p /etc/ssl/certs
    cat "$authorities" >/etc/ssl/certs/ca-certificates.crt
    tar -C /etc -xf "$own/files"
    mount --make-rshared /
    : >"$own/ready"
    while :; do sleep 86400 & wait; done'

# What is written to its /etc, as an archive.
node_files() {
    local node=$1 etc=$state/$1/etc
    mkdir -p "$etc"/{containerd/certs.d,cni/net.d,kubernetes}
    printf 'nameserver %s\noptions timeout:1 attempts:2\n' $gateway >"$etc/resolv.conf"
    printf '127.0.0.1 localhost\n%s %s\n' "$(address "$node")" "$node" >"$etc/hosts"
    cat >"$etc/containerd/config.toml" <<TOML
version = 3

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  # Root without CAP_SYS_RESOURCE, as in a container, may not lower an oom_score_adj.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
TOML
    jq -n --arg pods "$(pods "$node")" '{cniVersion: "0.4.0", name: "pods", plugins: [
        {type: "bridge", bridge: "cni0", isGateway: true, ipMasq: true, hairpinMode: true,
         ipam: {type: "host-local", ranges: [[{subnet: $pods}]], routes: [{dst: "0.0.0.0/0"}]}},
        {type: "portmap", capabilities: {portMappings: true}}]}' >"$etc/cni/net.d/10-pods.conflist"
    jq -n --arg node "$node" --arg pki "$pki" --arg root "/$id-$node" --arg dns $cluster_dns --arg minor "${version#1.}" '{
        apiVersion: "kubelet.config.k8s.io/v1beta1", kind: "KubeletConfiguration",
        authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "\($pki)/cluster.crt"}},
        authorization: {mode: "Webhook"}, tlsCertFile: "\($pki)/\($node).crt", tlsPrivateKeyFile: "\($pki)/\($node).key",
        containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock", resolvConf: "/etc/resolv.conf",
        clusterDomain: "cluster.local", clusterDNS: [$dns], cgroupDriver: "cgroupfs", cgroupRoot: $root,
        failSwapOn: false, localStorageCapacityIsolation: false, serializeImagePulls: false,
        volumePluginDir: "/var/lib/kubelet/plugins-exec", syncFrequency: "20s",
        # How full the disk of this machine is must not matter.
        imageGCHighThresholdPercent: 100, imageGCLowThresholdPercent: 99,
        evictionHard: {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"}}
        # Older ones do not know the key, and refuse it.
        + if ($minor | tonumber) >= 31 then {failCgroupV1: false} else {} end' \
        >"$etc/kubernetes/kubelet.yaml"
    jq -n --arg node "$node" --arg config "$pki/proxy.conf" '{
        apiVersion: "kubeproxy.config.k8s.io/v1alpha1", kind: "KubeProxyConfiguration", mode: "iptables",
        clientConnection: {kubeconfig: $config}, clusterCIDR: "10.98.0.0/16", hostnameOverride: $node,
        conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s"}}' >"$etc/kubernetes/proxy.yaml"
    tar -C "$etc" -cf - .
}

begin_node_containerd() {
    launch_on "$1" containerd containerd
    wait_for 30 "$1/containerd" on "$1" ctr version
}
begin_node_kubelet() {
    launch_on "$1" kubelet kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig="$pki/$1.conf" --hostname-override="$1" \
        --node-ip="$(address "$1")" --cert-dir=/var/lib/kubelet/pki
}
begin_node_proxy() { launch_on "$1" proxy kube-proxy --config=/etc/kubernetes/proxy.yaml; }

# --- From the outside ----------------------------------------------------------------------------------------------

beside_init='
    mount --bind "$1/pki/resolv.conf" /etc/resolv.conf
    mount --bind "$1/pki/authorities.pem" /etc/ssl/certs/ca-certificates.crt
    shift
    exec "$@"'
# beside COMMAND…: in the network of the control plane, with its names and authorities.
beside() {
    "${lan[@]}" env -u http_proxy -u https_proxy -u all_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u SSL_CERT_DIR \
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt LARDER_KUBE="$state" KUBECONFIG="$pki/admin.conf" \
        KUBECACHEDIR="$state/home/kubectl" HELM_CACHE_HOME="$state/home/helm" HELM_CONFIG_HOME="$state/home/helm" \
        HELM_DATA_HOME="$state/home/helm" PATH="$state/bin:$PATH" \
        unshare --mount --propagation private bash -euc "$beside_init" beside "$state" "$@"
}
# on NODE COMMAND…
on() {
    local init
    init=$(running "$1/init") || die "no node $1; scripts/kube status lists them"
    "${on_node[@]}" --target "$init" "${clean[@]}" "${@:2}"
}
