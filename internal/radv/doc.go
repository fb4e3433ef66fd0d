// Package radv is the advertising half of router discovery (RFC 4861): what a
// router advertisement of an interface says, and when it is said. How frames get
// onto the network is the caller's.
package radv
