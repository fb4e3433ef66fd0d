// Package topology reads the file that describes a whole cloud network,
// checks it, and turns it into the desired states that the subsystems of
// vnet are handed, one set per host.
//
// The file is YAML. Objects have the field names of Neutron's and Nova's APIs
// where those have them; where an API refers to another object by id, the file
// refers to it by name. [Parse] reports every mistake at once, each with its
// line, and [Compile] cannot fail on what Parse accepted.
//
// What the file leaves out is filled in from names alone (addresses, MACs,
// VNIs), so that the same file always means the same cloud and an added server
// moves no other.
package topology
