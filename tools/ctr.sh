#!/bin/bash
# Build and run Dockerfile and Singularity.def, unmodified, on a Debian bookworm machine as root that
# has neither a Docker engine nor Apptainer and reaches no image registry. `make containers` uses it
# there. Only the base image is a stand-in, made from Debian packages.
#
# usage: CTR=DIR ctr.sh COMMAND [ARGS]
#
#   prepare                  all that the commands below need; what is there already is left alone
#   show                     what was found: archive mirror, CA bundle, pip's folders
#   build -t NAME [-f FILE] DIR   build a Dockerfile (buildah)
#   podman ARGS              podman on the same images, with runc: `ctr.sh podman run --rm NAME ...`
#   apptainer ARGS           Apptainer as uid 1000 in a root of its own, which sees $CTR only
#   registry-start, registry-stop   a loopback mirror of docker.io with the stand-in, for
#                            `ctr.sh apptainer build --fakeroot --sandbox OUT DEF`
#
# environment
#   CTR       scratch folder, required: 8 GB on ext4, absolute, reachable by uid 1000 (not below
#             root's home); images to convert, data and outputs of `apptainer` lie below it
#   BASE      image the stand-in is named after (default python:3.11-slim-bookworm of docker.io)
#   MIRROR    Debian archive to use (default: the one apt's own sources name for bookworm)
#   REGISTRY  address of the loopback registry (default 127.0.0.1:5000)
#
# pip's settings and the folders they name are bound into builds and never baked into an image.

set -euo pipefail

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '') usage >&2; exit 64 ;;
esac

[[ ${CTR:-} == /* ]] || { echo "ctr.sh: set CTR to an absolute scratch folder (see --help)" >&2; exit 64; }
BASE=${BASE:-docker.io/library/python:3.11-slim-bookworm}
REGISTRY=${REGISTRY:-127.0.0.1:5000}
CA_IN=/etc/ssl/certs/ca-certificates.crt # where Debian keeps its CA bundle, inside the images as well
export CONTAINERS_CONF=$CTR/containers.conf
B=(buildah --storage-driver overlay --root "$CTR/store" --runroot "$CTR/run" --registries-conf "$CTR/registries.conf")
P=(podman --storage-driver overlay --root "$CTR/store" --runroot "$CTR/run"
  --cgroup-manager cgroupfs --events-backend file --runtime runc)

write_conf() { # ulimits that a machine without CAP_SYS_RESOURCE may set; the loopback registry as mirror
  mkdir -p "$CTR"
  printf '[containers]\ndefault_ulimits = [ "nofile=20000:20000", "nproc=30000:30000" ]\n' > "$CONTAINERS_CONF"
  cat > "$CTR/registries.conf" <<R
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "$REGISTRY"
insecure = true
R
}

apt_mirror() { # first archive that apt's own sources name for the bookworm suite, one-line format before deb822
  local files mirror=
  shopt -s nullglob
  files=(/etc/apt/sources.list.d/*.list)
  [ ! -f /etc/apt/sources.list ] || files=(/etc/apt/sources.list "${files[@]}")
  [ ${#files[@]} = 0 ] || mirror=$(awk '$1 == "deb" {
      sub(/\[[^]]*\] */, ""); if ($3 == "bookworm" && !m) m = $2 } END { print m }' "${files[@]}")
  files=(/etc/apt/sources.list.d/*.sources)
  [ -n "$mirror" ] || [ ${#files[@]} = 0 ] || mirror=$(awk '
      FNR == 1 || /^[ \t]*$/ { uri = suites = "" ; off = 0 }
      { key = tolower($0); sub(/[ \t]*:.*/, "", key); value = $0; sub(/^[^:]*:[ \t]*/, "", value) }
      key == "uris" { split(value, uris, " "); uri = uris[1] }
      key == "suites" { suites = " " value " " }
      key == "enabled" { off = (value ~ /^no/) }
      uri && !off && suites ~ / bookworm / && !found { found = uri }
      END { print found }' "${files[@]}")
  [ -n "$mirror" ] || { echo "ctr.sh: no bookworm archive in /etc/apt/sources.list*; set MIRROR" >&2; return 1; }
  printf '%s\n' "$mirror"
}

find_mirror() { MIRROR=${MIRROR:-$(apt_mirror)}; }

find_pip() { # pip's effective settings -> $CTR/pip.conf, folders they name -> PIP_DIRS, CA bundle -> CA
  CA=$(python3 -m pip config get global.cert 2> /dev/null) || CA=${SSL_CERT_FILE:-$CA_IN}
  mapfile -t PIP_DIRS < <(python3 - "$CTR/pip.conf" "$CA_IN" <<'PY'
import ast, configparser, os, subprocess, sys
from urllib.parse import unquote, urlparse

target, ca_inside = sys.argv[1:]
wanted = {"index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "proxy",
          "timeout", "default-timeout", "retries"}
listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
settings = []
for line in listing.splitlines():
    key, _, value = line.partition("=")
    section, _, name = key.rpartition(".")
    if name in wanted:
        settings.append((section == ":env:", section, name, str(ast.literal_eval(value))))

conf, folders = configparser.RawConfigParser(), {}
for from_env, section, name, value in sorted(settings):  # the environment comes last and wins, as in pip
    section = "global" if from_env else section
    for word in value.split():
        path = unquote(urlparse(word).path) if word.startswith("file:") else word
        if name == "cert" or not os.path.isabs(path) or not os.path.isdir(path):
            continue
        path = path.rstrip("/")
        # a simple index links to files beside it, so its parent has to be visible too
        folders[os.path.dirname(path) if os.path.basename(path) == "simple" else path] = None
    if not conf.has_section(section):
        conf.add_section(section)
    conf.set(section, name, ca_inside if name == "cert" else " ".join(value.split()))
with open(target, "w") as out:
    conf.write(out)
print("\n".join(folders), end="\n" if folders else "")
PY
  )
}

mount_points() { # mount_points ROOT: empty targets for what builds bind in
  local dir
  for dir in "${PIP_DIRS[@]}"; do mkdir -p "$1$dir"; done
  touch "$1/etc/pip.conf"
}

cmd_show() {
  echo "archive mirror: $MIRROR"
  echo "CA bundle:      $CA"
  echo "pip settings:   $CTR/pip.conf ($(grep -c = "$CTR/pip.conf" || true) keys)"
  printf 'pip folder:     %s\n' "${PIP_DIRS[@]}"
}

tools() {
  type -P buildah podman runc debootstrap docker-registry newuidmap > /dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    buildah podman runc debootstrap docker-registry uidmap > /dev/null
}

base() {
  local root=$CTR/rootfs container mount
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
    bookworm "$root" "$MIRROR" > "$CTR/debootstrap.log"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"
  mount_points "$root"
  ln -sf /usr/bin/python3 "$root/usr/local/bin/python"
  container=$("${B[@]}" from scratch)
  mount=$("${B[@]}" mount "$container")
  cp -a "$root/." "$mount/"
  "${B[@]}" umount "$container" > /dev/null
  "${B[@]}" config --cmd python3 --env LANG=C.UTF-8 "$container"
  "${B[@]}" commit -q "$container" "$BASE"
  "${B[@]}" rm "$container" > /dev/null
  rm -rf "$root"
}

cmd_build() {
  local dir volumes=(-v "$CA:$CA_IN:ro" -v "$CTR/pip.conf:/etc/pip.conf:ro")
  for dir in "${PIP_DIRS[@]}"; do volumes+=(-v "$dir:$dir:ro"); done
  "${B[@]}" bud --isolation chroot --network host --format docker "${volumes[@]}" "$@"
}

apptainer_root() { # Apptainer needs a newer libc than bookworm's, so it gets its own root; the host stays bookworm
  local root=$CTR/approot
  debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$MIRROR" > "$CTR/debootstrap2.log"
  echo "deb $MIRROR sid main" > "$root/etc/apt/sources.list.d/sid.list"
  printf 'Package: *\nPin: release n=sid\nPin-Priority: 100\n' > "$root/etc/apt/preferences.d/sid"
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  chroot "$root" sh -ec 'export DEBIAN_FRONTEND=noninteractive
    apt-get -o Acquire::Check-Valid-Until=false update -qq
    apt-get install -y -qq --no-install-recommends -t sid apptainer
    apt-get install -y -qq --no-install-recommends squashfuse fuse2fs fuse-overlayfs fuse3
    apt-get clean; useradd -m -u 1000 tester' > "$CTR/approot.log" 2>&1
}

in_apptainer() { # private mount namespace, own /dev, pivot_root, uid 1000
  export ROOT=$CTR/approot CA CA_IN CTR
  install -D -m 644 "$CTR/registries.conf" "$ROOT/etc/containers/registries.conf"
  BINDS=$(printf '%s\n' "${PIP_DIRS[@]}" "$CTR") && export BINDS
  exec unshare --mount --propagation private bash -euc '
    mount --bind "$ROOT" "$ROOT"
    mount -t proc proc "$ROOT/proc"
    mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
    for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
      IFS=: read -r name major minor <<< "$node"
      mknod -m 666 "$ROOT/dev/$name" c "$major" "$minor"
    done
    mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$ROOT/dev/pts"
    ln -s pts/ptmx "$ROOT/dev/ptmx"
    mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
    ln -s /proc/self/fd "$ROOT/dev/fd"
    for link in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${link%%:*}" "$ROOT/dev/${link##*:}"; done
    mount --rbind /sys "$ROOT/sys"
    cp -f "$CA" "$ROOT$CA_IN"
    install -m 644 "$CTR/pip.conf" "$ROOT/etc/pip.conf"
    while IFS= read -r dir; do
      if [ -d "$dir" ]; then mkdir -p "$ROOT$dir"; mount --bind "$dir" "$ROOT$dir"; fi
    done <<< "$BINDS"
    mkdir -p "$ROOT/oldroot"
    cd "$ROOT"
    pivot_root . oldroot
    umount -l /oldroot
    exec setpriv --reuid 1000 --regid 1000 --clear-groups env -i "TMP_OF_CTR=$CTR/tmp" HOME=/home/tester USER=tester LANG=C.UTF-8 \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"' in-apptainer "$@"
}

cmd_prepare() {
  tools
  "${B[@]}" inspect --type image "$BASE" > /dev/null 2>&1 || base
  [ -x "$CTR/approot/usr/bin/apptainer" ] || apptainer_root
}

cmd_registry_start() {
  local tries
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/reg}}\nhttp: {addr: %s}\n' \
    "$CTR" "$REGISTRY" > "$CTR/reg.yml"
  nohup docker-registry serve "$CTR/reg.yml" > "$CTR/reg.log" 2>&1 &
  echo $! > "$CTR/reg.pid"
  for tries in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1
    ! "${B[@]}" push -q --tls-verify=false "$BASE" "docker://$REGISTRY/${BASE#docker.io/}" \
      2> "$CTR/push.log" || return 0
  done
  cat "$CTR/push.log" >&2
  echo "ctr.sh: no registry at $REGISTRY after $tries tries" >&2
  return 1
}

cmd_registry_stop() { kill "$(cat "$CTR/reg.pid")" && rm "$CTR/reg.pid"; }

cmd_podman() { exec "${P[@]}" "$@"; }

cmd_apptainer() { # builds get what pip needs; the folder of the definition file is the current one
  local binds=() dir
  if [ "${1:-}" = build ]; then
    binds=(--bind "$CA_IN" --bind /etc/pip.conf)
    for dir in "${PIP_DIRS[@]}"; do binds+=(--bind "$dir"); done
    shift
    set -- build "${binds[@]}" "$@"
  fi
  mkdir -p "$CTR/tmp" && chmod 1777 "$CTR/tmp"
  in_apptainer sh -c 'cd "$1" 2> /dev/null || cd /; shift; APPTAINER_TMPDIR=$TMP_OF_CTR exec apptainer "$@"' \
    apptainer "$PWD" "$@"
}

command=$1
shift
case $command in
  prepare | show | build | podman | apptainer | registry-start | registry-stop) ;;
  *) usage >&2; exit 64 ;;
esac
write_conf
case $command in prepare | show) find_mirror ;; esac
case $command in prepare | show | build | apptainer) find_pip ;; esac
"cmd_${command//-/_}" "$@"
