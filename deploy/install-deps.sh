#!/bin/sh
# Installs what the given purposes need from Debian's packages, and nothing when all of it is there.
# usage: install-deps.sh build|demo|test|bench ...
set -eu

packages=
add() { packages="$packages $*"; }

for purpose; do
    case $purpose in
    # raft-rs and etcd's client generate their messages with protoc; the seccomp compiler is linked statically.
    build) add protobuf-compiler libprotobuf-dev libseccomp-dev gcc make ;;
    demo) add iproute2 util-linux busybox-static ;;
    test)
        add iproute2 util-linux busybox-static nftables procps runc systemd tcpdump
        add docker-registry apache2-utils skopeo buildah umoci bzip2 git openssh-client openssl xz-utils zstd
        add etcd-server wireguard-go wireguard-tools iputils-ping
        ;;
    bench) add iproute2 util-linux busybox-static iperf3 runc docker-registry etcd-server wireguard-go wireguard-tools ;;
    *)
        echo "install-deps.sh: unknown purpose $purpose" >&2
        exit 2
        ;;
    esac
done

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' && continue
    case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "install-deps.sh: missing packages:$missing (run as root, or: apt-get install$missing)" >&2
    exit 1
fi
echo "installing from Debian:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words
apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 ||
    { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; }
