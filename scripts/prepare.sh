#!/bin/bash
# Makes this machine able to run the lab: Debian packages, one kernel mount, the lab's foreign programs. Says what it changes.
# usage: scripts/prepare.sh [lab/build.sh target]…        default: controlplane images
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "prepare: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# program:package. python3, dbus-daemon: stand-ins for Podman and for the system bus in the tests; faketime: its library gives pets a wrong clock; catatonit: without it pods fail; iptables: without it netavark 1.4 fails, and says "netavark: No such file".
programs=(podman:podman crun:crun conmon:conmon /usr/lib/podman/netavark:netavark /usr/lib/podman/aardvark-dns:aardvark-dns
  catatonit:catatonit nft:nftables iptables:iptables ip:iproute2 curl:curl unshare:util-linux nsenter:util-linux
  python3:python3 dbus-daemon:dbus-daemon faketime:faketime)

# What starts virtual machines and makes their disks. openssh-client: ssh-keygen and ssh; binutils: strip.
for target in "$@"; do
  [ "$target" != vm ] || programs+=(qemu-system-x86_64:qemu-system-x86 mkfs.ext4:e2fsprogs ssh:openssh-client strip:binutils)
done

missing_packages() {
  local entry program
  for entry in "${programs[@]}"; do
    program=${entry%%:*}
    command -v "$program" >/dev/null || echo "${entry##*:}"
  done | sort -u
}

install_packages() {
  local missing
  missing=$(missing_packages | xargs)
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || die "these packages are missing, and this is no Debian: $missing"
  [ "$(id -u)" = 0 ] || die "these packages are missing: $missing; install them, or run this as root"
  say "installing Debian packages: $missing"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  # shellcheck disable=SC2086
  { "${apt[@]}" install -y --no-install-recommends $missing ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends $missing; }; } >&2 </dev/null
}

# crun refuses a hybrid cgroup layout in which a controller that the kernel offers is not mounted.
mount_hugetlb() {
  [ -d /sys/fs/cgroup/unified ] || return 0
  grep -q '^hugetlb' /proc/cgroups || return 0
  ! grep -q ' /sys/fs/cgroup/hugetlb ' /proc/mounts || return 0
  [ "$(id -u)" = 0 ] || die "crun needs the hugetlb cgroup hierarchy mounted: run this as root"
  say "mounting /sys/fs/cgroup/hugetlb: crun refuses this machine's hybrid cgroups without it"
  mkdir -p /sys/fs/cgroup/hugetlb
  mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
}

install_packages
mount_hugetlb
exec lab/build.sh "${@:-default}"
