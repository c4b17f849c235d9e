#!/usr/bin/env bash
# Install the Debian packages that a lab needs, those that are missing and no others.
set -eu
wanted="iproute2 mmdebstrap nftables openssh-client sshpass systemd-container"
missing=""
for package in $wanted; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "make: installing Debian packages for the lab:$missing"
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null 2>&1
