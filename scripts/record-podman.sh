#!/bin/bash
# Records the replies of a Podman into crates/podman/fixtures/<its version>/: of this machine's own, or of another Debian suite's.
# usage: scripts/record-podman.sh [trixie|sid]        needs root; nothing of the machine's own Podman store is touched
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The second part, in namespaces of its own: from here on mounts are nobody else's, and all that runs ends with this process.
if [ "${1:-}" = --inside ]; then
  work=$2 root=$3
  if [ -n "$root" ]; then
    # A plain chroot is not enough: crun then cannot remount "/". The suite's folder itself is not changed.
    mkdir "$work"/{upper,overlay,root}
    mount -t overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/overlay" root "$work/root"
    for dir in proc sys dev; do mount --rbind "/$dir" "$work/root/$dir"; done
    mkdir -p "$work/root$work" "$work/root/old"
    mount --bind "$work" "$work/root$work"
    cd "$work/root" && pivot_root . old && cd / && umount -l /old
  fi
  mount -t tmpfs shm /dev/shm && mount -t tmpfs run /run
  mkdir -p /var/lib/lab && mount --bind "$work/lab" /var/lib/lab
  ip link set lo up
  export CONTAINERS_CONF=$work/containers.conf CONTAINERS_REGISTRIES_CONF=$work/registries.conf PODMAN_IGNORE_CGROUPSV1_WARNING=1
  podman --root /var/lib/lab/root --runroot /var/lib/lab/runroot --cgroup-manager cgroupfs system service -t 0 unix:///var/lib/lab/podman.sock &
  for _ in {1..100}; do [ -S /var/lib/lab/podman.sock ] && break || sleep 0.1; done
  "$work/record" /var/lib/lab/podman.sock "$work/layer.tar" "$work/fixtures"
  exit
fi

suite=${1:-}
root=
if [ -n "$suite" ]; then
  lab/build.sh "rootfs-$suite"
  root=$(lab/build.sh --cache-dir)/rootfs/$suite
fi
cargo build --quiet --package kube-pet-podman --example record
work=$(mktemp -d /var/tmp/record-podman.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lab,fixtures} "$work/layer/bin" "$work/layer/data"
cp target/debug/examples/record "$work/record"
cp "$(command -v busybox)" "$work/layer/bin/busybox"
for name in sh sleep echo; do ln -s busybox "$work/layer/bin/$name"; done
tar -C "$work/layer" --owner=0 --group=0 --mtime=@0 --sort=name -cf "$work/layer.tar" .
cat >"$work/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
events_logger = "file"
exit_command_delay = 1
CONF
cat >"$work/registries.conf" <<'CONF'
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "registry.test"
location = "127.0.0.1:15551"
insecure = true
CONF
unshare --mount --net --pid --ipc --fork --kill-child=KILL --mount-proc --propagation private -- "$PWD/scripts/record-podman.sh" --inside "$work" "$root"
cp -r "$work"/fixtures/. crates/podman/fixtures/
