// Package ovnrouter makes routers on OVN, through [ovn.Target].
package ovnrouter
