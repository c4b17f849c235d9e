#!/usr/bin/env bash
# Make a virtual environment with the given Python; on Debian, whose python3 comes without venv, install that first.
set -eu
python=$1 venv=$2
[ -x "$venv/bin/pip" ] && exit 0
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "llmprov needs Python 3.11 or later, and $python is $("$python" --version): set PYTHON=/path/to/python3.11" >&2
  exit 2
}
if ! "$python" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "make: installing the Debian package python3-venv"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install python3-venv >/dev/null
fi
"$python" -m venv "$venv"
