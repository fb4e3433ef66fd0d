// Package secgroup decides which packets a port may send and receive: security groups and anti-spoofing.
package secgroup
