// Package dhcp gives virtual machines their addresses: DHCPv4 and DHCPv6 whose leases the application owns.
package dhcp
