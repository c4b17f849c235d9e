#!/usr/bin/env bash
# Say in one line where the demo will work: in a lab on this machine, or on the machine itself, and why. Found out by
# trying the rights a lab needs: a container's root may lack them.
set -u
data="${XDG_DATA_HOME:-$HOME/.local/share}/llmprov"
here() { echo "demo: this machine cannot host a lab ($1), so the demo provisions this machine itself, without root, under $data"; exit 0; }

[ "$(uname -s)" = Linux ] || here "it runs $(uname -s), and a lab needs Linux"
[ -r /etc/debian_version ] || here "it is no Debian, whose packages a lab is made of"
said=$(unshare --mount --pid --net --fork sh -c 'mount -t tmpfs none /mnt && mount -t proc proc /proc' 2>&1) ||
  here "$(echo "${said:-no right to mount}" | tail -n 1)"
if command -v ip >/dev/null; then
  said=$(ip link add llmtry0 type bridge 2>&1) || here "no right to make a network bridge: $said"
  ip link del llmtry0
fi
[ -w /var/lib/dpkg ] || command -v systemd-nspawn >/dev/null || here "it lacks systemd-nspawn, and this account may not install it"
echo "demo: a lab of three Debian hosts on this machine, each with its own systemd, sshd and apt"
