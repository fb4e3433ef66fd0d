// Package ovndhcp makes DHCPv4 and DHCPv6 on OVN, through [ovn.Target].
package ovndhcp
