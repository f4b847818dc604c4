# shellcheck shell=bash
# Functions of scripts/demo, test, check and bare: apt packages, Python, a virtual environment, steps of one line each.
# Sourced, never run. Nothing here prompts, except sudo at a terminal; apt's and pip's configuration is not changed.

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$(realpath --canonicalize-missing --no-symlinks -- "${EMPIARFS_VENV:-$checkout/.venv}")
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # Debian leaves these out for ordinary users; apache2 is there
missing=()                                          # apt packages to install
tell_failure=true
lists_are_new=false

say() { printf '%s\n' "$@"; } # a line each

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# show_progress LABEL LOG: print from time to time the elapsed seconds and the last line of LOG; ended by a signal.
show_progress() {
  local began=$SECONDS last
  while sleep 1 >/dev/null; do
    last=$(tail -n 1 -- "$2" | tr -dc '[:print:]' | cut -c 1-40)
    if [[ -t 1 ]]; then
      printf '\r\033[K%s: %d s  %s' "$1" $((SECONDS - began)) "$last"
    elif (((SECONDS - began) % 20 == 0)); then
      say "$1: $((SECONDS - began)) s so far  $last"
    fi
  done
}

# step LABEL COMMAND...: run it and show its progress; print how long it took, or its output and exit.
step() {
  local label=$1 log status=0 began=$SECONDS progress
  shift
  log=$(mktemp)
  show_progress "$label" "$log" &
  progress=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill "$progress"
  wait "$progress" 2>/dev/null || true
  [[ ! -t 1 ]] || printf '\r\033[K'
  if ((status == 0)); then
    rm -f -- "$log"
    say "$label: done, $((SECONDS - began)) s"
    return
  fi
  if $tell_failure; then
    cat -- "$log" >&2
    rm -f -- "$log"
    die "$label: failed with status $status after $((SECONDS - began)) s; its output is above"
  fi
  rm -f -- "$log"
  return "$status"
}

# want PACKAGE PROBE...: mark the package for installation unless the probe succeeds.
want() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

# check_device: fail early if FUSE cannot be used.
check_device() {
  local device=/dev/fuse trouble
  if [[ ! -c $device ]]; then
    die "there is no $device; load the module: sudo modprobe fuse; in a container start it with --device /dev/fuse --cap-add SYS_ADMIN"
  fi
  trouble=$({ : <>"$device"; } 2>&1) && return
  case $trouble in
    *"Permission denied"*)
      die "you may not open $device; for now: sudo chmod 666 $device; permanently: echo 'KERNEL==\"fuse\", MODE=\"0666\"' | sudo tee /etc/udev/rules.d/99-fuse.rules"
      ;;
    *"No such device"*) die "$device has no driver; load it: sudo modprobe fuse" ;;
    *) die "$device cannot be opened ($trouble); in a container start it with --device /dev/fuse --cap-add SYS_ADMIN" ;;
  esac
}

# check_room MEGABYTES: fail early if there is no space for a new virtual environment.
check_room() {
  local above=$venv free
  [[ ! -x $venv/bin/python ]] || return 0
  while [[ ! -d $above ]]; do above=$(dirname -- "$above"); done
  free=$(df --output=avail --block-size=1M -- "$above" | tail -n 1)
  ((free >= $1)) ||
    die "$venv needs about $1 MB, and $above has$free MB free; free some, or choose another directory: EMPIARFS_VENV=/big/disk/empiarfs-venv $0"
}

has_library() { [[ $(ldconfig -p) == *"$1"* ]]; }

has_fuse() { command -v fusermount3 && has_library libfuse3.so.; }

# as_root COMMAND...: run it as root, with sudo if needed, and with the proxies that apt may need.
as_root() {
  local settings=(DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a) name
  for name in http_proxy https_proxy no_proxy; do
    [[ -z ${!name:-} ]] || settings+=("$name=${!name}")
  done
  if ((EUID == 0)); then
    env "${settings[@]}" "$@"
  else
    sudo env "${settings[@]}" "$@"
  fi
}

may_install() {
  local wanted=("${missing[@]}")
  fit_python >/dev/null || wanted+=(python3 python3-venv)
  command -v apt-get >/dev/null ||
    die "this machine has no apt; install the equivalents of these packages, then run again: ${wanted[*]}"
  ((EUID != 0)) || return 0
  if command -v sudo >/dev/null; then
    sudo -n true 2>/dev/null && return
    # at a terminal sudo may prompt for the password
    [[ -t 0 ]] && sudo -v && return
  fi
  die "packages are missing and you may not use sudo; ask an administrator to run: apt-get install ${wanted[*]}"
}

new_lists() {
  $lists_are_new && return
  may_install
  # a broken third-party source fails the update, but the installation may still work
  tell_failure=false
  step "apt: package lists" as_root apt-get -o DPkg::Lock::Timeout=300 update ||
    say "apt: some package lists could not be fetched; continuing with the existing ones"
  tell_failure=true
  lists_are_new=true
}

candidate() {
  local version
  version=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p')
  [[ -n $version && $version != "(none)" ]] && printf '%s\n' "$version"
}

# mend_mtab: without /etc/mtab (as after a bare debootstrap) fusermount3 cannot unmount for an ordinary user.
mend_mtab() {
  [[ -e /etc/mtab ]] || as_root ln -s ../proc/self/mounts /etc/mtab
}

# install_missing: install the packages that `want` and `choose_python` marked, in one step, without recommended ones.
install_missing() {
  ((${#missing[@]})) || return 0
  new_lists
  mend_mtab
  local package found=()
  for package in "${missing[@]}"; do
    if candidate "$package" >/dev/null; then
      found+=("$package")
    elif candidate "${package}t64" >/dev/null; then # libfuse2 since Ubuntu 24.04 and Debian 13
      found+=("${package}t64")
    else
      say "apt: there is no package $package; tests that need it will FAIL: install $package yourself"
    fi
  done
  missing=()
  ((${#found[@]})) || return 0
  step "apt: ${found[*]}" as_root apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${found[@]}"
}

is_fit() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

fit_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14; do
    if command -v "$name" >/dev/null && is_fit "$name"; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# choose_python: mark the packages of a Python >= 3.11 with venv if the machine has none.
choose_python() {
  fit_python >/dev/null && return
  new_lists
  local version name
  version=$(candidate python3 || true)
  if [[ $version =~ ^3\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 11)); then
    missing+=(python3 python3-venv)
    return
  fi
  for name in python3.13 python3.12 python3.11 python3.14; do
    if candidate "$name-venv" >/dev/null; then
      missing+=("$name" "$name-venv")
      return
    fi
  done
  die "there is no Python 3.11 or newer, neither installed nor in apt; install one (uv python install 3.13, pyenv, conda, or Ubuntu's deadsnakes archive) and choose it: PYTHON=/path/to/python3.13 $0"
}

# make_venv run|dev: make a virtual environment with the package, editable, unless there is one that is up to date.
make_venv() {
  local kind=$1 stamp="$venv/.empiarfs-installed" python expected
  expected=$(
    sha256sum <"$checkout/pyproject.toml"
    printf '%s\n%s\n' "$checkout" "$venv"
  )
  if [[ -x $venv/bin/python && -f $stamp-$kind && $(<"$stamp-$kind") == "$expected" ]] &&
    "$venv/bin/python" -c 'import empiarfs' 2>/dev/null; then
    PATH="$venv/bin:$PATH"
    return
  fi
  python=$(fit_python) || die "there is no Python 3.11 or newer with venv; install python3-venv, or choose one: PYTHON=... $0"
  if ! mkdir -p -- "$venv" 2>/dev/null || [[ ! -w $venv ]]; then
    die "$venv is not writable for you; choose a directory of your own: EMPIARFS_VENV=~/empiarfs-venv $0"
  fi
  # one that was moved, or whose Python is gone, is made again; a directory of another kind is never cleared
  if ! is_fit "$venv/bin/python" || [[ -f $stamp-path && $(<"$stamp-path") != "$venv" ]]; then
    if [[ ! -f $venv/pyvenv.cfg && -n $(ls -A -- "$venv") ]]; then
      die "$venv is not a virtual environment; choose another directory: EMPIARFS_VENV=~/empiarfs-venv $0"
    fi
    step "virtual environment $venv" "$python" -m venv --clear "$venv"
  fi
  printf '%s\n' "$venv" >"$stamp-path"
  PATH="$venv/bin:$PATH"
  rm -f -- "$stamp-run" "$stamp-dev"
  python -m pip --version >/dev/null 2>&1 || step "pip: into $venv" python -m ensurepip
  if [[ $kind == dev ]]; then
    step "pip: itself" python -m pip install --no-input --progress-bar off --upgrade "pip>=25.1" # the first that knows --group
    step "pip: empiarfs and what its tests need" \
      python -m pip install --no-input --progress-bar off --group "$checkout/pyproject.toml:dev" --editable "$checkout[all]"
    printf '%s\n' "$expected" >"$stamp-dev"
  else
    step "pip: empiarfs" python -m pip install --no-input --progress-bar off --editable "$checkout"
  fi
  printf '%s\n' "$expected" >"$stamp-run"
}
