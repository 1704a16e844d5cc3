#!/bin/bash
# Build the peers that no distribution has, at pinned versions, into build/peers (or VAN_BENCH_PEERS): ghostunnel and frp from their Go modules, rathole from
# its crate. What cannot be built here is said and left out: the benchmark skips it by name. Once: some minutes.
set -u
cd "$(dirname "$0")/../.." || exit 1
home=${VAN_BENCH_PEERS:-$PWD/build/peers}
export PATH=$PATH:/usr/local/go/bin GOBIN=$home/bin CARGO_TARGET_DIR=$home/target
mkdir -p "$home/bin"

build() { # NAME VERSION COMMAND...: unless that version is there
    local name=$1 version=$2
    shift 2
    [ "$(cat "$home/$name.version" 2>/dev/null)" = "$version" ] && return
    echo "peers: building $name $version"
    if "$@" >"$home/$name.log" 2>&1; then
        echo "$version" >"$home/$name.version"
    else
        echo "peers: $name $version could not be built: $(tail -n 1 "$home/$name.log")" >&2
    fi
}

# MODULE@VERSION PACKAGE...: with exactly the versions that its own go.mod names.
go_program() {
    local module=$1 from
    shift
    from=$(go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p') && [ -n "$from" ] || return 1
    (cd "$from" && go build -mod=mod -modfile="$(copy "$from")" -trimpath -ldflags=-s -o "$home/bin/" "$@")
}

copy() { # of a go.mod and go.sum, which the module cache does not let change
    mkdir -p "$home/target/mod"
    cp -f "$1/go.mod" "$1/go.sum" "$home/target/mod/" && chmod -R u+w "$home/target/mod" && echo "$home/target/mod/go.mod"
}

build ghostunnel v1.8.4 go_program github.com/ghostunnel/ghostunnel@v1.8.4 .
build frp v0.65.0 go_program github.com/fatedier/frp@v0.65.0 ./cmd/frps ./cmd/frpc
# Its lock file names a `time` that compilers since 1.80 refuse; all else is as it says. Fetched as the dependency of a package that is nothing else.
rathole() (
    set -e
    mkdir -p "$home/target/fetch/src" && cd "$home/target/fetch"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nrathole = "=%s"\n[workspace]\n' "$1" >Cargo.toml
    echo 'fn main() {}' >src/main.rs
    cargo fetch --quiet
    rm -rf "$home/target/source"
    cp -r "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"rathole-$1" "$home/target/source"
    cd "$home/target/source"
    printf '\n[workspace]\n' >>Cargo.toml
    cargo update --quiet -p time --precise 0.3.36
    cargo install --quiet --path . --locked --root "$home"
)
build rathole 0.5.0 rathole 0.5.0
rm -rf "$home/target"
