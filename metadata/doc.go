// Package metadata tells virtual machines about themselves over HTTP, as EC2 and OpenStack do.
package metadata
