#!/bin/sh
# Our execd in a real container: makes it the execd image of the official lifecycle server (PyPI opensandbox-server on
# Debian's Docker engine) and runs the command given with OPEN_SANDBOX_DOMAIN, _API_KEY and _IMAGE set for that server.
#
#   run.sh BUILD COMMAND...      exit status 75: Docker cannot start here (the reason is printed)
#
# Everything that it makes lies in BUILD/container; its own dockerd, the server and all containers end with it.
set -eu
build=$1
shift
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
work=$build/container
server_version=1.1.1
mkdir -p "$work"

dockerd_pid='' server_pid=''
stop() {
    if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null || true; fi
    docker ps -aq --filter label=opensandbox.io/id 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || true
    if [ -n "$dockerd_pid" ]; then
        kill "$dockerd_pid" 2>/dev/null || true
        wait "$dockerd_pid" 2>/dev/null || true
    fi
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the engine ----
if ! docker info >/dev/null 2>&1; then
    export DOCKER_HOST="unix://$work/docker.sock"
    command -v dockerd >/dev/null || PATH=$PATH:/usr/sbin:/sbin
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" --host "$DOCKER_HOST" \
        >"$work/dockerd.log" 2>&1 &
    dockerd_pid=$!
    tries=0
    until docker info >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 150 ] || ! kill -0 $dockerd_pid 2>/dev/null; then
            echo "the Docker engine cannot start here: $(grep -o 'level=fatal.*\|failed to start.*' "$work/dockerd.log" | tail -n 1)"
            exit 75
        fi
        sleep 0.2
    done
fi

# ---- images: a Debian for sandboxes, and one from scratch with nothing but execd and what it needs ----
if ! docker image inspect opensandbox-lua/debian:1 >/dev/null 2>&1; then
    if [ ! -f "$work/debian.tar" ]; then
        # shellcheck disable=SC2016 # apt's own variable
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$')
        rm -rf "$work/debian"
        debootstrap --variant=minbase --include=procps bookworm "$work/debian" "$mirror" >"$work/debootstrap.log" 2>&1
        tar -C "$work/debian" -cf "$work/debian.tar" .
        rm -rf "$work/debian"
    fi
    docker import "$work/debian.tar" opensandbox-lua/debian:1 >/dev/null
fi

# Copies the libraries that a program loads into a folder.
copy_libraries() {
    ldd "$1" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | while read -r library; do cp -Lu "$library" "$2/"; done
}
image=$work/image
loader=$(readelf -l "$build/bin/opensandbox-execd" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
rm -rf "$image"
mkdir -p "$image/execd/lib" "$image/bin" "$image/tmp" "$image$(dirname "$loader")" "$image/lib"
cp "$build/bin/opensandbox-execd" "$image/execd/"
cp -L "$loader" "$image/execd/loader"
cp -L "$loader" "$image$loader"
copy_libraries "$build/bin/opensandbox-execd" "$image/execd/lib"
cp "$here/bootstrap.sh" "$image/bootstrap.sh"
chmod 755 "$image/bootstrap.sh"
cp "$(command -v tail)" "$image/bin/tail" # the server keeps a container of the image open by it
copy_libraries "$(command -v tail)" "$image/lib"
tar -C "$image" -c . | docker import - opensandbox-lua/execd:1 >/dev/null
echo "libraries of execd in the image: $(find "$image/execd/lib" -type f -printf '%f ')"

# ---- the server ----
if [ ! -x "$work/venv/bin/opensandbox-server" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q "opensandbox-server==$server_version" >"$work/pip.log" 2>&1
fi
port=$("$work/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
(
    umask 077
    cat >"$work/server.toml" <<END
[server]
host = "127.0.0.1"
port = $port
api_key = "$key"
[runtime]
type = "docker"
execd_image = "opensandbox-lua/execd:1"
[store]
type = "sqlite"
path = "$work/server.db"
[docker]
network_mode = "bridge"
no_new_privileges = true
END
)
"$work/venv/bin/opensandbox-server" --config "$work/server.toml" >"$work/server.log" 2>&1 &
server_pid=$!
tries=0
until curl -fs "http://127.0.0.1:$port/health" >/dev/null; do
    tries=$((tries + 1))
    if [ $tries -gt 150 ] || ! kill -0 $server_pid 2>/dev/null; then
        tail -n 20 "$work/server.log"
        echo "the official server does not start" >&2
        exit 1
    fi
    sleep 0.2
done

export OPEN_SANDBOX_DOMAIN="127.0.0.1:$port" OPEN_SANDBOX_API_KEY="$key" OPEN_SANDBOX_IMAGE=opensandbox-lua/debian:1
"$@"
