#!/bin/bash
# Prepares what the lab's images are made of besides Go programs: trees of Debian packages, busybox and pause.
# usage: trees.sh OUT PAUSE_SOURCE     run by lab/build.sh; OUT gets bin/{busybox,pause} and trees/{tools,nginx,perl}
set -euo pipefail
out=$1 pause_source=$2
mkdir -p "$out/bin"

# The mirror is whatever this machine's apt uses for Debian's main archive, in either of the formats of its sources.
# shellcheck disable=SC2016  # apt-get expands these
mirror=${KUBE_PET_LAB_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  awk '$3 == "main" && $2 ~ /^(bookworm|trixie|forky|sid|stable|testing|unstable|oldstable)$/ { print $1; exit }')}
if [ -z "$mirror" ]; then
  echo "lab: no Debian archive in apt's sources; set KUBE_PET_LAB_DEBIAN_MIRROR to a mirror's URL" >&2
  exit 1
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_root NAME SOURCES-LINE: an apt of its own, with no package installed, so that the machine's packages and lists play no part.
apt_root() {
  local dir=$out/apt-$1
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
  : >"$dir/status"
  echo "$2" >"$dir/sources.list"
  cat >"$dir/apt.conf" <<EOF
Dir::Etc::SourceList "$dir/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$dir";
Dir::State::Lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
EOF
  APT_CONFIG=$dir/apt.conf apt-get -qq -o APT::Update::Error-Mode=any update
}

# The real image has busybox 1.37.0, and the suite asserts its manners: names like "data-1" stay in ash's environment (Debian's builds carry a
# patch that drops them), and errors are in ash's own words (so bash cannot stand in). Hence the upstream tarball, which is in Debian's source package.
busybox() {
  echo "busybox: building 1.37.0 from upstream's source"
  apt_root trixie "deb-src [signed-by=$keyring] $mirror trixie main"
  local src=$out/busybox-src
  rm -rf "$src" && mkdir "$src" && cd "$src"
  APT_CONFIG=$out/apt-trixie/apt.conf apt-get -qq --download-only source busybox
  tar -xf busybox_1.37.*.orig.tar.*
  cd busybox-1.37.*/
  make -s defconfig >/dev/null
  # tc needs kernel headers that are gone; the SHA acceleration does not link statically with every compiler.
  sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/
    s/^CONFIG_SHA\(1\|256\)_HWACCEL=y/# CONFIG_SHA\1_HWACCEL is not set/' .config
  (yes "" || true) 2>/dev/null | make -s oldconfig >/dev/null
  make -s -j"$(nproc)" 2>&1
  install -m 755 busybox "$out/bin/busybox"
  cd "$out" && rm -rf "$src"
}

# tree NAME PACKAGE...: unpacks the packages and what they depend on, less what the trees before have. Nothing is configured or run.
declare -A unpacked=()
tree() {
  local dir=$out/trees/$1 apt=$out/apt-bookworm deb name
  shift
  rm -rf "$dir" && mkdir -p "$dir"/usr/{bin,sbin,lib,lib32,lib64,libx32}
  for d in bin sbin lib lib32 lib64 libx32; do ln -s usr/$d "$dir/$d"; done
  rm -f "$apt"/cache/archives/*.deb
  APT_CONFIG=$apt/apt.conf apt-get -qq install -y --download-only "$@" >/dev/null
  for deb in "$apt"/cache/archives/*.deb; do
    name=$(basename "${deb%%_*}")
    # Only for installing packages; perl's come when they are asked for.
    case " $* " in *" perl "*) ;; *) case $name in perl* | libperl*) continue ;; esac ;; esac
    case $name in dpkg | debconf | tar | openssl | ca-certificates | init-system-helpers | libdebconfclient0 | gcc-12-base) continue ;; esac
    [ -n "${unpacked[$name]:-}" ] && continue
    unpacked[$name]=1
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$dir"
  done
  rm -rf "$dir"/usr/share/{doc,man,info,locale,lintian,bash-completion,bug,doc-base,menu,zsh,gcc,gdb,perl5/Debconf} \
    "$dir"/usr/lib/{systemd,x86_64-linux-gnu/{gconv,audit}} "$dir"/var/{cache,backups} "$dir"/etc/{init.d,default,systemd,cron.daily,logrotate.d}
}

# What the packages' installation scripts would have done.
finish_tools() {
  local dir=$out/trees/tools applet d
  mkdir -p "$dir"/{dev,proc,sys,run,tmp,root,home,etc,var/{tmp,log,lib,cache}}
  chmod 1777 "$dir/tmp" "$dir/var/tmp" && chmod 700 "$dir/root"
  cp "$dir/usr/share/base-passwd/passwd.master" "$dir/etc/passwd"
  cp "$dir/usr/share/base-passwd/group.master" "$dir/etc/group"
  cp "$dir/usr/share/libc-bin/nsswitch.conf" "$dir/etc/nsswitch.conf"
  [ -e "$dir/etc/os-release" ] || ln -s ../usr/lib/os-release "$dir/etc/os-release"
  [ -e "$dir/usr/bin/nc" ] || ln -s nc.openbsd "$dir/usr/bin/nc"
  [ -e "$dir/usr/bin/sh" ] || ln -s dash "$dir/usr/bin/sh"
  # busybox for whatever the packages lack: wget, nslookup, httpd, telnet, vi, awk, …
  install -m 755 "$out/bin/busybox" "$dir/usr/bin/busybox"
  for applet in $("$out/bin/busybox" --list); do
    for d in bin sbin; do [ -e "$dir/usr/$d/$applet" ] || [ -L "$dir/usr/$d/$applet" ] && continue 2; done
    ln -s busybox "$dir/usr/bin/$applet"
  done
  /sbin/ldconfig -r "$dir" 2>/dev/null
}

# The paths and the configuration of the upstream nginx image.
finish_nginx() {
  local dir=$out/trees/nginx
  mkdir -p "$dir"/etc/nginx/conf.d "$dir"/usr/share/nginx/html "$dir"/var/{log/nginx,lib/nginx}
  printf '<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n' \
    >"$dir/usr/share/nginx/html/index.html"
  cp "$dir/usr/share/nginx/html/index.html" "$dir/usr/share/nginx/html/50x.html"
  cat >"$dir/etc/nginx/nginx.conf" <<'EOF'
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http { include mime.types; access_log /dev/stdout; include conf.d/*.conf; }
EOF
  cat >"$dir/etc/nginx/conf.d/default.conf" <<'EOF'
server { listen 80; listen [::]:80; location / { root /usr/share/nginx/html; index index.html; } }
EOF
}

[ -x "$out/bin/busybox" ] || busybox
gcc -Os -static -s -DVERSION=3.10.2 -o "$out/bin/pause" "$pause_source"

echo "trees: unpacking Debian packages"
apt_root bookworm "deb [signed-by=$keyring] $mirror bookworm main"
tree tools base-files base-passwd bash bind9-dnsutils coreutils curl dash findutils grep hostname iperf iproute2 iputils-ping libc-bin \
  netcat-openbsd procps sed socat stress util-linux util-linux-extra
finish_tools
tree nginx nginx-light
finish_nginx
tree perl perl
tree conntrack conntrack
rm -rf "$out"/apt-*
