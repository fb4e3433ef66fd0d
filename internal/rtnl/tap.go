package rtnl

import "github.com/vishvananda/netlink"

// TapMode is the mode of a [Tuntap] that carries Ethernet frames.
const TapMode = netlink.TUNTAP_MODE_TAP
