// Package router is the layer 3 of a virtual network: routers, source NAT, floating IPs, port forwarding.
package router
