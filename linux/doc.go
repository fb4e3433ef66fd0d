// Package linux is the handle of the Linux kernel platform: one [Host] is one
// network namespace in which this module's Linux backends work.
package linux
