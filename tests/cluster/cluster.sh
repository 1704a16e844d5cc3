#!/bin/bash
# A real Kubernetes cluster of one node in a network namespace of its own (build.sh builds its parts). Several can run side by side and reach each other.
#
#   cluster.sh up NAME INDEX              start it; INDEX 1..9 picks the addresses:
#                                         node 10.200.INDEX.2, pods 10.244.INDEX.0/24, services 10.(96+INDEX).0.0/16
#   cluster.sh down NAME                  end all that belongs to it and remove its files; also what is left of one that was killed
#   cluster.sh load NAME TAR              import an image archive
#   cluster.sh namespace NAME NAMESPACE   make a namespace and a user whose only right is the ClusterRole `admin` in it; prints his kubeconfig
#   cluster.sh exec NAME COMMAND...       run something in the cluster's network: there ClusterIPs can be reached
#   cluster.sh ready NAME                 exit code 0: it is up and its API server answers
#
# The administrator's kubeconfig is $VAN_CLUSTER_HOME/run/NAME/admin.kubeconfig; it works from the host and from inside. Beside it: *.log of each
# process, audit.log of the API server, pids/. Services of type LoadBalancer get addresses 10.200.INDEX.100 and up from cloud.py.
# kubectl is the cluster's own release: $VAN_CLUSTER_HOME/bin/kubectl.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
HOME_DIR=${VAN_CLUSTER_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/vanrouter/cluster}
BIN=$HOME_DIR/bin
RUN=$HOME_DIR/run
export PATH=$BIN:$PATH:/usr/local/sbin:/usr/sbin:/sbin

usage() { sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p }' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
COMMAND=$1 NAME=$2
[[ $NAME =~ ^[a-z][a-z0-9]{0,10}$ ]] || { echo "cluster.sh: a cluster's name is up to 11 small letters and digits, not '$NAME'" >&2; exit 2; }
D=$RUN/$NAME
NETNS=van-$NAME
CGROUP=van-$NAME

# nsenter and not `ip netns exec`, which hides the cgroups.
inside() { nsenter --net="/run/netns/$NETNS" "$@"; }

start() {
    local program=$1
    shift
    nsenter --net="/run/netns/$NETNS" setsid "$@" </dev/null >"$D/$program.log" 2>&1 & # not by a function: $! is then another's
    echo $! >"$D/pids/$program"
}

# until_done SECONDS WHAT COMMAND...: LOG of the process that it is about is shown when it does not come true.
until_done() {
    local deadline=$((SECONDS + $1)) what=$2 log=$3
    shift 3
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            echo "cluster.sh: $NAME: $what is not there in time; the end of $log:" >&2
            tail -n 15 "$log" >&2 || true
            return 1
        fi
        sleep 0.1
    done
}

ready() { [ -f "$D/admin.kubeconfig" ] && [ -f "$D/ready" ] && kubectl --kubeconfig "$D/admin.kubeconfig" --request-timeout 3s get --raw /readyz >/dev/null 2>&1; }

# certificate FILE COMMON_NAME ORGANISATION USAGE [SUBJECT_ALT_NAMES]
certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/O=$3/CN=$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'extendedKeyUsage=%s\n%s\n' "$4" "${5:+subjectAltName=$5}" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA "$D/pki/ca.crt" -CAkey "$D/pki/ca.key" -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}

# kubeconfig FILE CERTIFICATE [NAMESPACE]
kubeconfig() {
    cat >"$1" <<END
apiVersion: v1
kind: Config
current-context: $NAME
contexts: [{name: $NAME, context: {cluster: $NAME, user: user, namespace: ${3:-default}}}]
clusters: [{name: $NAME, cluster: {server: "https://$(cat "$D/address"):6443", certificate-authority-data: $(base64 -w0 "$D/pki/ca.crt")}}]
users: [{name: user, user: {client-certificate-data: $(base64 -w0 "$2.crt"), client-key-data: $(base64 -w0 "$2.key")}}]
END
}

up() {
    local index=$1
    [[ $index =~ ^[1-9]$ ]] || { echo "cluster.sh: INDEX is 1 to 9, not '$index'" >&2; exit 2; }
    if ready; then echo "$NAME is up"; return; fi
    [ -x "$BIN/coredns" ] || { echo "cluster.sh: $BIN has no Kubernetes yet: run $HERE/build.sh" >&2; exit 1; }
    local other
    for other in "$RUN"/*/index; do
        if [ -f "$other" ] && [ "$other" != "$D/index" ] && [ "$(cat "$other")" = "$index" ]; then
            echo "cluster.sh: cluster $(basename "$(dirname "$other")") has index $index: take another, or take that one down" >&2
            exit 1
        fi
    done
    down
    trap failed ERR EXIT
    trap 'exit 130' INT TERM

    local address=10.200.$index.2 services=10.$((96 + index)).0 pods=10.244.$index.0/24
    mkdir -p "$D"/{pids,etcd,pki,cni,containerd,kubelet,manifests}
    chmod 700 "$D"
    echo "$index" >"$D/index"
    echo "$address" >"$D/address"
    echo $$ >"$D/pids/up"
    network "$address" "10.200.$index.1"
    keys "$address" "$services.1"
    control_plane "$address" "$services.0/16"
    node "$address" "$services.10" "$pods"
    names "$address" "$services.10"
    start cloud python3 "$HERE/cloud.py" "$D/admin.kubeconfig" "$NETNS" "10.200.$index"
    until_done 60 "the node" "$D/kubelet.log" node_is_ready
    rm "$D/pids/up"
    touch "$D/ready"
    trap - ERR EXIT INT TERM
    kubectl get nodes -o wide
}

failed() {
    trap - ERR EXIT
    rm -rf "$D-failed"
    mkdir -p "$D-failed"
    cp "$D"/*.log "$D-failed/" 2>/dev/null || true
    echo "cluster.sh: $NAME did not come up; its logs are in $D-failed" >&2
    down
    exit 1
}

network() {
    local forwarding=/proc/sys/net/ipv4/ip_forward
    ip netns add "$NETNS"
    ip -n "$NETNS" link set lo up
    ip link add "vk-$NAME" type veth peer name eth0 netns "$NETNS"
    ip addr add "$2/24" dev "vk-$NAME"
    ip link set "vk-$NAME" up
    ip -n "$NETNS" addr add "$1/24" dev eth0
    ip -n "$NETNS" link set eth0 up
    ip -n "$NETNS" route add default via "$2"
    # Given back with the last cluster. Of two that begin at once the first one's counts: it was read before either changed it.
    cp $forwarding "$D/ip_forward"
    ln "$D/ip_forward" "$RUN/.ip_forward" 2>/dev/null || [ -f "$RUN/.ip_forward" ]
    echo 1 >$forwarding
    inside sysctl -qw net.ipv4.ip_forward=1
    inside sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true # where the kernel has no such switch, bridges are not filtered
}

keys() {
    local names="IP:$1,IP:127.0.0.1,IP:$2,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost" user
    cd "$D/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=ca-$NAME" -keyout ca.key -out ca.crt 2>/dev/null
    openssl x509 -in ca.crt -noout -serial | cut -d= -f2 >ca.srl
    certificate api kube-apiserver kubernetes serverAuth "$names"
    certificate kubeletserver "$NAME" kubernetes serverAuth "IP:$1,DNS:$NAME"
    certificate apikubelet kube-apiserver system:masters clientAuth
    certificate admin admin system:masters clientAuth
    certificate manager system:kube-controller-manager kubernetes clientAuth
    certificate scheduler system:kube-scheduler kubernetes clientAuth
    certificate kubelet "system:node:$NAME" system:nodes clientAuth
    certificate proxy system:kube-proxy kubernetes clientAuth
    openssl genrsa -out sa.key 2048 2>/dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
    for user in admin manager scheduler kubelet proxy; do kubeconfig "$D/$user.kubeconfig" "$D/pki/$user"; done
    cd "$D"
    export KUBECONFIG=$D/admin.kubeconfig
}

control_plane() {
    local pki=$D/pki
    start etcd etcd --data-dir "$D/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
    # Who used which right: everything but what the cluster's own parts do.
    cat >"$D/audit.yaml" <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: [system:nodes, "system:serviceaccounts:kube-system"]}
- {level: None, users: [system:apiserver, kube-apiserver, system:kube-controller-manager, system:kube-scheduler, system:kube-proxy, admin]}
- {level: Metadata}
END
    start apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 --advertise-address="$1" \
        --tls-cert-file="$pki/api.crt" --tls-private-key-file="$pki/api.key" --client-ca-file="$pki/ca.crt" \
        --kubelet-client-certificate="$pki/apikubelet.crt" --kubelet-client-key="$pki/apikubelet.key" --kubelet-certificate-authority="$pki/ca.crt" \
        --kubelet-preferred-address-types=InternalIP --service-cluster-ip-range="$2" --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" --authorization-mode=Node,RBAC --allow-privileged \
        --audit-policy-file="$D/audit.yaml" --audit-log-path="$D/audit.log" --audit-log-maxsize=100
    containers
    until_done 90 "the API server" "$D/apiserver.log" kubectl get --raw /readyz
    start manager "$BIN/kube-controller-manager" --kubeconfig="$D/manager.kubeconfig" --authentication-kubeconfig="$D/manager.kubeconfig" \
        --authorization-kubeconfig="$D/manager.kubeconfig" --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
        --use-service-account-credentials --leader-elect=false --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
    start scheduler "$BIN/kube-scheduler" --kubeconfig="$D/scheduler.kubeconfig" --leader-elect=false
}

# While the API server starts. This machine may lack CAP_SYS_RESOURCE, hence restrict_oom_score_adj.
containers() {
    cat >"$D/containerd.toml" <<END
version = 2
root = "$D/containerd/root"
state = "$D/containerd/state"
[grpc]
  address = "$D/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.local/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$D/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
END
    start containerd containerd --config "$D/containerd.toml"
    until_done 20 "containerd" "$D/containerd.log" ctr -a "$D/containerd.sock" version
    until_done 20 "the pause image" "$D/containerd.log" ctr -a "$D/containerd.sock" -n k8s.io images import "$HOME_DIR/images/pause.tar"
}

node() {
    local controller root=/sys/fs/cgroup
    cat >"$D/cni/10-bridge.conflist" <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$D/ipam", "ranges": [[{"subnet": "$3"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
    if [ -f $root/cgroup.controllers ]; then
        mkdir -p "$root/$CGROUP"
        for controller in cpuset cpu io memory pids hugetlb; do echo "+$controller" >$root/cgroup.subtree_control 2>/dev/null || true; done
    else
        for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd hugetlb; do
            if [ -d $root/$controller ]; then mkdir -p "$root/$controller/$CGROUP"; fi
        done
        for controller in cpus mems; do cat $root/cpuset/cpuset.$controller >"$root/cpuset/$CGROUP/cpuset.$controller"; done
    fi
    printf 'nameserver 127.0.0.1\n' >"$D/resolv.conf"
    cat >"$D/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $D/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $D/pki/kubeletserver.crt
tlsPrivateKeyFile: $D/pki/kubeletserver.key
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failSwapOn: false
clusterDNS: [$2]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$D/containerd.sock
resolvConf: $D/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
podLogsDir: $D/podlogs
END
    start kubelet "$BIN/kubelet" --config="$D/kubelet.yaml" --kubeconfig="$D/kubelet.kubeconfig" --hostname-override="$NAME" --node-ip="$1" --root-dir="$D/kubelet"
    cat >"$D/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $D/proxy.kubeconfig}
mode: nftables
clusterCIDR: $3
hostnameOverride: $NAME
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
    start proxy "$BIN/kube-proxy" --config="$D/proxy.yaml"
}

names() {
    cat >"$D/Corefile" <<END
.:53 {
  bind $1
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $D/admin.kubeconfig $NAME
    ttl 1
  }
  cache 1
}
END
    start coredns "$BIN/coredns" -conf "$D/Corefile"
    kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: $2, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$1], conditions: {ready: true}}]
END
}

node_is_ready() { kubectl get node "$NAME" | grep -q ' Ready' && kubectl get serviceaccount default; }

namespace() {
    local namespace=$1 file=$D/users/$1
    mkdir -p "$D/users"
    kubectl create namespace "$namespace" >/dev/null
    kubectl create rolebinding "$namespace-admin" --namespace "$namespace" --clusterrole admin --user "$namespace" >/dev/null
    certificate "$file" "$namespace" users clientAuth
    kubeconfig "$file.kubeconfig" "$file" "$namespace"
    echo "$file.kubeconfig"
}

# What has this cluster's socket or files in its arguments: shims of containers outlive containerd. (The pattern is not in the arguments of grep.)
processes() { grep -lsaF -f <(echo "$D/") /proc/[0-9]*/cmdline | cut -d/ -f3 | grep -vxF -e $$ || true; }

in_cgroups() { find /sys/fs/cgroup -path "*/$CGROUP/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u; }

# All at once and without asking: nothing of it is kept. Kubelet and containerd go first, so that nobody starts a container again.
down() {
    local pid program round mount netns pod index
    index=$(cat "$D/index" 2>/dev/null || echo none)
    for program in up kubelet containerd; do
        pid=$(cat "$D/pids/$program" 2>/dev/null || true)
        if [ -n "$pid" ] && [ "$pid" != $$ ] && grep -qsaF -e "$D/" -e "cluster.sh" "/proc/$pid/cmdline"; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
    for round in $(seq 50); do
        pid=$(processes; in_cgroups)
        [ -n "$pid" ] || break
        # shellcheck disable=SC2086 # one word per process
        kill -KILL $pid 2>/dev/null || true
        sleep 0.1
    done
    for mount in $(awk '{ print $2 }' /proc/mounts | grep "^$D/" | sort -r); do umount -l "$(printf %b "$mount")" || true; done
    if [ "$index" != none ]; then
        for netns in $(ip netns list | grep -o '^cni-[0-9a-f-]*' || true); do
            if ip -n "$netns" route show default 2>/dev/null | grep -qF "via 10.244.$index.1 "; then ip netns del "$netns"; fi
        done
    fi
    # What is kept outside of $D under the ids of pods: results of CNI plugins, links to logs.
    for pod in $(head -qn 1 "$D"/ipam/pods/*.*.*.* 2>/dev/null | tr -d '\r'); do rm -f /var/lib/cni/results/*-"$pod"-*; done
    find /var/log/containers -lname "$D/*" -delete 2>/dev/null || true
    if [ -e "/run/netns/$NETNS" ]; then ip netns del "$NETNS"; fi
    ip link del "vk-$NAME" 2>/dev/null || true
    for mount in /sys/fs/cgroup/"$CGROUP" /sys/fs/cgroup/*/"$CGROUP"; do
        if [ -d "$mount" ]; then find "$mount" -depth -type d -exec rmdir {} \; 2>/dev/null || true; fi
    done
    rm -rf "$D"
    if [ -f "$RUN/.ip_forward" ] && ! compgen -G "$RUN/*/index" >/dev/null; then
        cat "$RUN/.ip_forward" >/proc/sys/net/ipv4/ip_forward
        rm "$RUN/.ip_forward"
    fi
    mkdir -p "$RUN"
}

export KUBECONFIG=$D/admin.kubeconfig
case $COMMAND/$# in
    up/3) up "$3" ;;
    down/2) down ;;
    load/3) ctr -a "$D/containerd.sock" -n k8s.io images import "$3" ;;
    namespace/3) namespace "$3" ;;
    exec/*) shift 2; inside "$@" ;;
    ready/2) ready ;;
    *) usage ;;
esac
