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
	# The guest with a Debian kernel (internal/lab).
	need busybox-static /bin/busybox
	need kmod modprobe
	need qemu-system-x86 qemu-system-x86_64
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
[ -z "$missing" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "to be installed by root:$missing" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive INITRD=No
echo "installing:$missing"
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
rm -f "$log"
