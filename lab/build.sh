#!/bin/bash
# Builds the lab's foreign parts into a cache outside the work tree. See lab/README.md.
# usage: lab/build.sh [controlplane] [suite] [images] [coredns] [clients] [metrics-server] [peer] [wireguard] [helm] [rootfs-trixie] [rootfs-sid] [vm] [all]      default: controlplane images
#        lab/build.sh --cache-dir
set -euo pipefail

lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBE_PET_LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/kube-pet/lab}
kubernetes=v1.37.1

export CGO_ENABLED=0 GOWORK=off GOFLAGS="-trimpath -buildvcs=false -mod=readonly"

say() { echo "lab: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# ---- What there is to build. For each target: what it leaves in the cache, what its key covers, how long it takes, and how it is made. ----

declare -A outputs=(
  [controlplane]="bin/k8s bin/etcd bin/kube-apiserver bin/kube-controller-manager bin/kube-scheduler bin/kubectl"
  [suite]="bin/e2e.test bin/ginkgo"
  [coredns]="bin/coredns"
  [metrics-server]="bin/metrics-server"
  [clients]="bin/kubectl-1.36 bin/streams python"
  [peer]="bin/kubelet bin/kube-proxy bin/containerd bin/containerd-shim-runc-v2"
  [wireguard]="bin/wireguard-go bin/wg"
  [helm]="bin/helm"
  [registry]="bin/labregistry"
  [programs]="work/programs"
  [trees]="work/trees"
  [images]="images/index.json"
  [rootfs-trixie]="rootfs/trixie"
  [rootfs-sid]="rootfs/sid"
  [vm]="vm"
)
declare -A first_build=(
  [controlplane]="8 to 10 minutes on 2 cores"
  [suite]="3 minutes on 2 cores"
  [coredns]="2 minutes on 2 cores"
  [metrics-server]="2 minutes on 2 cores"
  [clients]="3 minutes on 2 cores"
  [peer]="3 minutes on 2 cores"
  [wireguard]="10 seconds"
  [helm]="3 minutes on 2 cores"
  [registry]="10 seconds"
  [programs]="1 minute on 2 cores"
  [trees]="2 minutes on 2 cores"
  [images]="10 seconds"
  [rootfs-trixie]="1 to 2 minutes"
  [rootfs-sid]="1 to 2 minutes"
  [vm]="2 to 3 minutes"
)

go_key() { echo "$go_version $CGO_ENABLED $GOFLAGS" && hash_of "$lab/go/go.mod" "$lab/go/go.sum" "${@/#/$lab/go/}"; }
hash_of() { find "$@" -type f ! -name '*_test.go' -print0 | LC_ALL=C sort -z | xargs -0 cat | sha256sum; }
key() {
  declare -f "build_$1" version_flags
  case $1 in rootfs-*) declare -f build_rootfs bootstrap ;; vm) declare -f bootstrap ;; esac
  case $1 in
    controlplane) go_key cmd/k8s ;;
    suite | programs) go_key ;;
    peer) go_key && hash_of "$lab/containerd" ;;
    registry) go_key cmd/labregistry internal ;;
    coredns | metrics-server | helm) echo "$go_version" && hash_of "$lab/$1" ;;
    clients) go_key cmd/streams && hash_of "$lab/kubectl-1.36" "$lab/python/requirements.txt" && python3 --version ;;
    trees) hash_of "$lab/images" ;;
    images) go_key cmd/labimages internal && key programs && key trees && key coredns ;;
  esac
}

# Without these the programs call themselves v0.0.0-master and refuse one another's versions.
version_flags() {
  local package flags="-s -w"
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=37"
    flags+=" -X $package.gitCommit= -X $package.gitTreeState=clean -X $package.buildDate=2026-09-23T17:06:22Z"
  done
  echo "$flags"
}

go_build() { (cd "$lab/go" && nice -n 5 go build -v -ldflags "$(version_flags)" -o "$1" "$2"); }

build_controlplane() {
  local name
  go_build "$new/bin/k8s" ./cmd/k8s
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do ln -s k8s "$new/bin/$name"; done
  # No symbolic link: the official suite copies it into pods.
  ln "$new/bin/k8s" "$new/bin/kubectl"
}

build_suite() {
  go_build "$new/bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
  (cd "$lab/go" && nice -n 5 go test -c -v -ldflags "$(version_flags)" -o "$new/bin/e2e.test" k8s.io/kubernetes/test/e2e)
}

# What a node is made of otherwise, to compare with: kubelet and kube-proxy, containerd with runc and the CNI plugins.
build_peer() {
  need_command runc runc
  need_file /usr/lib/cni/bridge containernetworking-plugins
  install_needed
  go_build "$new/bin/kubelet" k8s.io/kubernetes/cmd/kubelet
  go_build "$new/bin/kube-proxy" k8s.io/kubernetes/cmd/kube-proxy
  local program modules=github.com/containerd/containerd/v2 version
  version=$(cd "$lab/containerd" && go list -m -f '{{.Version}}' $modules)
  for program in containerd containerd-shim-runc-v2; do
    (cd "$lab/containerd" && nice -n 5 go build -v -tags no_btrfs,no_devmapper,no_zfs -ldflags "-s -w -X $modules/version.Version=$version" \
      -o "$new/bin/$program" $modules/cmd/$program)
  done
}

# Other clients than the lab's own kubectl, for the tests of exec and the like: kubectl of the minor before, client-go, Python's.
build_clients() {
  python3 -c 'import ensurepip' 2>/dev/null || needed+=(python3-venv)
  install_needed
  go_build "$new/bin/streams" ./cmd/streams
  (cd "$lab/kubectl-1.36" && nice -n 5 go build -v -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.6" -o "$new/bin/kubectl-1.36" .)
  python3 -m venv "$new/python"
  "$new/python/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lab/python/requirements.txt"
}

# Another WireGuard that is no kernel's, to compare with: Debian's.
build_wireguard() {
  need_command wireguard-go wireguard-go
  need_command wg wireguard-tools
  install_needed
  cp "$(command -v wireguard-go)" "$(command -v wg)" "$new/bin/"
}

# The real one, to compare what it makes of the chart with the plain manifests.
build_helm() { (cd "$lab/helm" && nice -n 5 go build -v -ldflags "-s -w" -o "$new/bin/helm" helm.sh/helm/v4/cmd/helm); }

build_registry() { go_build "$new/bin/labregistry" ./cmd/labregistry; }

build_coredns() { (cd "$lab/coredns" && nice -n 5 go build -v -ldflags "-s -w" -o "$new/bin/coredns" .); }

build_metrics-server() { (cd "$lab/metrics-server" && nice -n 5 go build -v -ldflags "-s -w" -o "$new/bin/metrics-server" .); }

# The programs that the test images hold, and etcd on its own: as a part of k8s it would make that image five times as large.
build_programs() {
  local dir=$new/work/programs tests=k8s.io/kubernetes/test/images
  mkdir -p "$dir"
  (cd "$lab/go" && nice -n 5 go build -v -ldflags "$(version_flags) -X main.Version=2.66.1" -o "$dir/agnhost" $tests/agnhost)
  go_build "$dir/regression-issue-74839" $tests/regression-issue-74839
  go_build "$dir/nnp" $tests/nonewprivs
  go_build "$dir/consumer" $tests/resource-consumer
  go_build "$dir/consume-cpu" $tests/resource-consumer/consume-cpu
  go_build "$dir/sample-apiserver" k8s.io/sample-apiserver
  go_build "$dir/etcd" go.etcd.io/etcd/server/v3
}

build_trees() {
  need_command gcc gcc
  need_command make make
  need_command xz xz-utils
  need_command bzip2 bzip2
  need_file "$(gcc -print-file-name=libc.a 2>/dev/null || true)" libc6-dev
  need_file /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
  install_needed
  nice -n 5 "$lab/images/trees.sh" "$new/work/trees" "$(kubernetes_source)/build/pause/linux/pause.c"
}

# The layout is changed in place: blobs are added, then its index is replaced.
build_images() {
  go_build "$new/labimages" ./cmd/labimages
  "$new/labimages" --out "$cache/images" --trees "$cache/work/trees" --programs "$cache/work/programs" --coredns "$cache/bin/coredns" \
    --kubernetes "$(kubernetes_source)"
}

build_rootfs-trixie() { build_rootfs trixie; }
build_rootfs-sid() { build_rootfs sid; }

# The root folder of a machine with a newer Debian, and so a newer Podman, than the one that the lab runs on.
build_rootfs() {
  local root=$new/rootfs/$1
  bootstrap "$1" "$root" procps
  echo "rootfs-$1: $(chroot "$root" podman --version)"
}

# What a virtual machine boots: the root folder that its disk is made of, and the kernel and initrd that it is started with. The initrd holds no
# more than what such a machine has: under software emulation all the drivers of a real one would take seconds to unpack.
build_vm() {
  local root=$new/vm/root
  bootstrap bookworm "$root" systemd,systemd-sysv,dbus,udev,kmod,procps,openssh-server,initramfs-tools,linux-image-cloud-amd64
  printf '%s\n' MODULES=list COMPRESS=gzip >"$root/etc/initramfs-tools/conf.d/lab"
  printf '%s\n' virtio_pci virtio_blk ext4 >>"$root/etc/initramfs-tools/modules"
  chroot "$root" update-initramfs -u -k all
  cp "$root"/boot/vmlinuz-* "$new/vm/vmlinuz"
  mv "$root"/boot/initrd.img-* "$new/vm/initrd.img"
  rm -rf "$root"/boot/* "$root"/vmlinuz* "$root"/initrd.img*
  echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
  # A session of logind for each command over ssh would take longer than the command.
  printf '%s\n' 'UsePAM no' 'AuthorizedKeysFile /etc/ssh/authorized_keys' >"$root/etc/ssh/sshd_config.d/lab.conf"
  # The journal outlives a power cut.
  mkdir -p "$root/var/log/journal"
  chroot "$root" systemctl enable systemd-networkd.service systemd-networkd-wait-online.service
  chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
}

# A Debian of this suite in this folder: what a user installs for kube-pet, and these packages. conmon and its like come as Podman's dependencies.
# What debootstrap mounts stays in a namespace of its own.
bootstrap() {
  local suite=$1 root=$2 packages=$3
  need_command debootstrap debootstrap
  need_file /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
  install_needed
  mkdir -p "$root"
  nice -n 5 unshare --mount --propagation private debootstrap --variant=minbase \
    --include="podman,crun,conmon,netavark,aardvark-dns,catatonit,nftables,iptables,iproute2,ca-certificates,curl,$packages" \
    "$suite" "$root" "$(debian_mirror)"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,info,locale}
}

# The mirror is whatever this machine's apt uses for Debian's main archive, in either of the formats of its sources.
# shellcheck disable=SC2016  # apt-get expands these
debian_mirror() {
  local mirror=${KUBE_PET_LAB_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$3 == "main" && $2 ~ /^(bookworm|trixie|forky|sid|stable|testing|unstable|oldstable)$/ { print $1; exit }')}
  [ -n "$mirror" ] || die "no Debian archive in apt's sources; set KUBE_PET_LAB_DEBIAN_MIRROR to a mirror's URL"
  echo "$mirror"
}

kubernetes_source() { (cd "$lab/go" && go mod download k8s.io/kubernetes && go list -m -f '{{.Dir}}' k8s.io/kubernetes); }

# ---- Debian packages that the builds themselves need ----

needed=()
need_command() { command -v "$1" >/dev/null || needed+=("$2"); }
need_file() { [ -e "$1" ] || needed+=("$2"); }
install_needed() {
  [ ${#needed[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "these Debian packages are missing: ${needed[*]}; install them, or run this as root"
  echo "installing Debian packages: ${needed[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  "${apt[@]}" install -y --no-install-recommends "${needed[@]}" ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${needed[@]}"; }
}

# ---- Running the builds ----

fresh() {
  local output
  [ "$(cat "$cache/stamps/$1" 2>/dev/null)" = "$2" ] || return 1
  for output in ${outputs[$1]}; do [ -e "$cache/$output" ] || return 1; done
}

# ensure TARGET: builds it unless the cache has it already.
ensure() {
  local target=$1 want
  want=$(key "$target" | sha256sum | cut -c1-64)
  fresh "$target" "$want" && return
  mkdir -p "$cache"/{bin,work,rootfs,stamps,lock,log,tmp}
  exec {lock}>"$cache/lock/build"
  if ! flock -n "$lock"; then
    say "$target: waiting for another build"
    flock "$lock"
  fi
  fresh "$target" "$want" || make_target "$target" "$want"
  exec {lock}>&-
}

make_target() {
  local target=$1 want=$2 log=$cache/log/$1.log start=$SECONDS output pid next=20
  new=$(mktemp -d "$cache/tmp/$target.XXXXXX")
  mkdir -p "$new/bin" "$new/work"
  say "$target: building (first build: about ${first_build[$target]}; log: $log)"
  "build_$target" >"$log" 2>&1 {lock}>&- &
  pid=$!
  trap 'kill $pid 2>/dev/null || true; rm -rf "$new"; exit 130' INT TERM
  while kill -0 $pid 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - start >= next)); then
      say "$target: $((SECONDS - start)) s, $(wc -l <"$log") lines of log, now: $(tail -n 1 "$log" | cut -c1-100)"
      next=$((next + 20))
    fi
  done
  if ! wait $pid; then
    tail -n 30 "$log" >&2
    rm -rf "$new"
    die "$target: failed after $((SECONDS - start)) s; the whole log is $log"
  fi
  trap - INT TERM
  for output in ${outputs[$target]}; do
    [ -e "$new/$output" ] || [ -L "$new/$output" ] || continue
    if [ -d "$new/$output" ] && [ -e "$cache/$output" ]; then mv "$cache/$output" "$new/replaced"; fi
    mv -fT "$new/$output" "$cache/$output"
  done
  echo "$want" >"$new/stamp" && mv -f "$new/stamp" "$cache/stamps/$target"
  rm -rf "$new"
  say "$target: done in $((SECONDS - start)) s"
}

targets=()
for argument in "${@:-default}"; do
  case $argument in
    --cache-dir) echo "$cache" && exit ;;
    default) targets+=(controlplane registry programs trees coredns images) ;;
    images) targets+=(registry programs trees coredns images) ;;
    all) targets+=(controlplane registry programs trees coredns metrics-server images clients suite peer wireguard helm) ;;
    controlplane | suite | coredns | clients | metrics-server | peer | wireguard | helm | registry | rootfs-trixie | rootfs-sid | vm) targets+=("$argument") ;;
    *) die "unknown target $argument; see lab/README.md" ;;
  esac
done
command -v go >/dev/null || die "Go is not installed (1.26 or later); see https://go.dev/dl/"
go_version=$(go env GOVERSION)
for target in "${targets[@]}"; do ensure "$target"; done
