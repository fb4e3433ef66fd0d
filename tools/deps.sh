#!/bin/sh
# Installs, on Debian, what a cloud on Open vSwitch (ovs) or OVN (ovn), the tests
# (test) or the measurements (bench) run besides Go: each line is a program or file and the
# package that has it.
set -eu
missing=
need() { # need PACKAGE PROGRAM-OR-FILE
	case $2 in
	/*) set -- "$1" "$(ls -d $2 2>/dev/null | head -n 1)" ;;
	*) set -- "$1" "$(PATH=$PATH:/usr/sbin:/sbin command -v "$2" || true)" ;;
	esac
	[ -n "$2" ] || missing="$missing $1"
}
# Open vSwitch and OVN; none of their services is started.
need openvswitch-common ovsdb-server
need openvswitch-switch ovs-vswitchd
if [ "${1:-test}" != ovs ]; then
	need ovn-common ovn-nbctl
	need ovn-central ovn-northd
	need ovn-host ovn-controller
fi
case ${1:-test} in test | bench)
	need gcc gcc # for the race detector
	need libc6-dev /usr/include/stdlib.h
	need iproute2 ip
	need iputils-ping ping
	need nftables nft
	need conntrack conntrack
	need curl curl
	need udhcpc /sbin/udhcpc
	need isc-dhcp-client dhclient
	need dhcpcd5 dhcpcd
	need ndisc6 rdisc6
	need cloud-init /usr/lib/python3/dist-packages/cloudinit/version.py # its readers, as clients of the metadata service
	# Open vSwitch with DPDK, and guests of it; the plain switch stays the one in the PATH.
	need openvswitch-switch-dpdk /usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
	need dpdk-dev dpdk-testpmd
	need python3-placement /usr/lib/python3/dist-packages/placement/wsgi.py # OpenStack's own ledger, beside ours
	# The guest with a Debian kernel (internal/lab).
	need busybox-static /bin/busybox
	need kmod modprobe
	need linux-image-amd64 '/lib/modules/*-amd64/modules.dep'
	;;
esac
if [ "${1:-test}" = bench ]; then
	need kea-dhcp4-server kea-dhcp4
	need kea-admin perfdhcp
	need dnsmasq-base dnsmasq
	need haproxy haproxy
	need wrk wrk
	need iperf3 iperf3
fi
# The emulated NIC with SR-IOV (igb, an Intel 82576) needs QEMU 8; Debian 12 has that in bookworm-backports.
newer=
case ${1:-test} in test | bench)
	qemu-system-x86_64 -device help 2>/dev/null | grep -q '"igb"' || newer=qemu-system-x86
	;;
esac
[ -z "$missing$newer" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "to be installed by root:$missing $newer" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive INITRD=No
echo "installing:$missing $newer"
log=$(mktemp)
# backports puts the suite beside the others, at the archive that the machine has already.
backports() {
	apt-cache policy | grep -q 'n=bookworm-backports' && return
	from=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' | head -n 1)
	[ -n "$from" ] || { echo "no suite bookworm among apt's sources, so bookworm-backports cannot be found"; return 1; }
	signed=/usr/share/keyrings/debian-archive-keyring.gpg
	[ ! -e $signed ] || from="[signed-by=$signed] $from"
	echo "deb $from bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list
	apt-get update
}
if ! {
	apt-get update && { [ -z "$missing" ] || apt-get install -y --no-install-recommends $missing; } &&
		{ [ -z "$newer" ] || { backports && apt-get install -y --no-install-recommends -t bookworm-backports $newer; }; }
} >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
rm -f "$log"
