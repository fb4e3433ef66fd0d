// Package vnet holds the words that every package of the module shares:
// owners, parts, ids, MAC addresses, errors, plans, events.
package vnet
