// Package ovnsecgroup enforces security groups by rows of OVN's Northbound
// database.
package ovnsecgroup
