#!/bin/bash
# Build the peers that no distribution has, at pinned versions, into ~/.cache/vanrouter/peers (or VAN_BENCH_PEERS): ghostunnel and frp from their Go
# modules, rathole from its crate. What cannot be built here is said and left out: the benchmark skips it by name. Once: some minutes.
#
# Each step says `|| return 1` for itself: `build` asks whether a function succeeded, and bash ignores `set -e` in a function that is asked.
set -u
home=$(realpath -m -- "${VAN_BENCH_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/vanrouter/peers}") || exit 1
mkdir -p -- "$home/bin" || exit 1
work=$(mktemp -d -- "$home/building.XXXXXX") || exit 1 # all that is removed again
trap 'rm -rf -- "$work"' EXIT
cd -- "$work" || exit 1 # nothing below may find the files of whoever called
export PATH=$PATH:/usr/local/go/bin GOBIN=$home/bin CARGO_TARGET_DIR=$work/target

build() { # NAME VERSION COMMAND...: unless that version is there
    local name=$1 version=$2
    shift 2
    [ "$(cat "$home/$name.version" 2>/dev/null)" = "$version" ] && return
    echo "peers: building $name $version"
    if "$@" >"$home/$name.log" 2>&1; then
        echo "$version" >"$home/$name.version"
    else
        echo "peers: $name $version could not be built: $(tail -n 1 "$home/$name.log") (all of it: $home/$name.log)" >&2
    fi
}

# MODULE@VERSION PACKAGE...: with exactly the versions that its own go.mod names. They are copied, as the module cache does not let them change.
go_program() {
    local module=$1 from
    shift
    from=$(go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
    [ -n "$from" ] || return 1
    mkdir -p "$work/mod" || return 1
    cp -f "$from/go.mod" "$from/go.sum" "$work/mod/" || return 1
    chmod -R u+w "$work/mod" || return 1
    (cd "$from" && go build -mod=mod -modfile="$work/mod/go.mod" -trimpath -ldflags=-s -o "$home/bin/" "$@")
}

# Its lock file names a `time` that compilers since 1.80 refuse; all else is as it says. Fetched as the dependency of a package that is nothing else.
rathole() { # VERSION
    local source
    mkdir -p "$work/fetch/src" || return 1
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nrathole = "=%s"\n[workspace]\n' "$1" \
        >"$work/fetch/Cargo.toml" || return 1
    echo 'fn main() {}' >"$work/fetch/src/main.rs" || return 1
    cargo fetch --quiet --manifest-path "$work/fetch/Cargo.toml" || return 1
    source=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -type d -name "rathole-$1" | head -n 1)
    [ -n "$source" ] || return 1
    cp -r "$source" "$work/source" || return 1
    printf '\n[workspace]\n' >>"$work/source/Cargo.toml" || return 1
    cargo update --quiet --manifest-path "$work/source/Cargo.toml" -p time --precise 0.3.36 || return 1
    cargo install --quiet --path "$work/source" --locked --root "$home" || return 1
}

build ghostunnel v1.8.4 go_program github.com/ghostunnel/ghostunnel@v1.8.4 .
build frp v0.65.0 go_program github.com/fatedier/frp@v0.65.0 ./cmd/frps ./cmd/frpc
build rathole 0.5.0 rathole 0.5.0
