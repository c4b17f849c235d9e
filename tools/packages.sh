#!/usr/bin/env bash
# Install the Debian packages that a lab needs, or that the tests of services do: those that are missing and no others.
set -eu
case $1 in
  lab) wanted="iproute2 mmdebstrap nftables openssh-client sshpass systemd-container" ;;
  tests) wanted="chromium ethtool gnupg postgresql" ;;
  *) echo "usage: packages.sh lab|tests" >&2; exit 2 ;;
esac
missing=""
for package in $wanted; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "make: these Debian packages are missing, and what needs them is left out:$missing"
  exit 0
fi
echo "make: installing Debian packages for the $1:$missing"
# The server is for tests that start their own: no cluster is made, no service started.
if [[ $missing == *postgresql* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
  mkdir -p /etc/postgresql-common
  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold install $missing \
  >/dev/null 2>&1
