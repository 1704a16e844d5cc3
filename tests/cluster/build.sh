#!/bin/bash
# Builds what a real one-node Kubernetes cluster consists of into $VAN_CLUSTER_HOME/bin: kube-apiserver, kube-controller-manager, kube-scheduler,
# kubelet, kube-proxy, kubectl and CoreDNS from their published Go modules; etcd, containerd, runc and the CNI plugins come from Debian.
#
# Needs root, Go >= 1.24 and gcc. About 10 minutes on 2 cores with nothing cached, no time when nothing changed; a second one waits for the first.
#   build.sh            build
#   build.sh --packages only install the packages of Debian
#   build.sh --can      exit code 0: it can be built, or is built, here; else says what is missing
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
HOME_DIR=${VAN_CLUSTER_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/vanrouter/cluster}
PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns)
PACKAGES=(etcd-server containerd runc containernetworking-plugins iptables nftables iproute2 conntrack openssl)
export PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin

made_from() { cat "$HERE"/build.sh "$HERE"/pause.c "$HERE"/*/go.mod "$HERE"/*/go.sum "$HERE"/*/tools.go | sha256sum | cut -c -16; uname -m; }

built() {
    local program
    [ -f "$HOME_DIR/images/pause.tar" ] || return 1
    for program in "${PROGRAMS[@]}"; do [ -x "$HOME_DIR/bin/$program" ] || return 1; done
    [ "$(cat "$HOME_DIR/built" 2>/dev/null)" = "$(made_from)" ]
}

installed() { dpkg -s "${PACKAGES[@]}" >/dev/null 2>&1; }

new_enough() { command -v go >/dev/null && printf '%s\n' go1.24 "$(cd / && go env GOVERSION)" | sort -CV; }

can() {
    [ "$(id -u)" = 0 ] || { echo "clusters need root"; return 1; }
    installed || command -v apt-get >/dev/null || { echo "clusters need packages of Debian: ${PACKAGES[*]}"; return 1; }
    built || { new_enough && command -v gcc >/dev/null; } || { echo "clusters need Go >= 1.24 and gcc to build them"; return 1; }
}

can || exit 1
[ "${1:-}" != --can ] || exit 0

mkdir -p "$HOME_DIR/bin" "$HOME_DIR/images/pause"
exec 9>"$HOME_DIR/build.lock"
flock -n 9 || { echo "clusters: another build is under way; waiting for it"; flock 9; }
# RUNLEVEL=1: a server that a package brings is not started.
installed || { apt-get -qq update; DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends "${PACKAGES[@]}" >/dev/null; }
if [ "${1:-}" = --packages ] || built; then exit 0; fi

began=$SECONDS
echo "clusters: building Kubernetes, once (about 10 minutes with nothing cached)"
version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3 }' "$HERE/kubernetes/go.mod")
major=${version#v} minor=${version#v*.}
component=k8s.io/component-base/version
flags="-s -w -X $component.gitVersion=$version -X $component.gitMajor=${major%%.*} -X $component.gitMinor=${minor%%.*}"
rm -f "$HOME_DIR/built"
(cd "$HERE/kubernetes" && go build -trimpath -ldflags "$flags" -o "$HOME_DIR/bin/" \
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl})
(cd "$HERE/coredns" && go build -trimpath -ldflags "-s -w" -o "$HOME_DIR/bin/coredns" github.com/coredns/coredns)
gcc -O2 -static -o "$HOME_DIR/images/pause/pause" "$HERE/pause.c"
python3 "$HERE/../../deploy/image/pack.py" --name registry.local/pause:1 --entrypoint /pause --out "$HOME_DIR/images/pause.tar" "$HOME_DIR/images/pause" >/dev/null
made_from >"$HOME_DIR/built"
echo "clusters: built in $((SECONDS - began)) s"
