// Package metadata tells virtual machines about themselves over HTTP, as EC2
// and OpenStack do.
//
// # The model
//
// An [Endpoint] is a place where machines reach the service under
// 169.254.169.254, fd00:ec2::254 and fe80::a9fe:a9fe, TCP port 80: in a
// router, for all networks attached to it, or on a network that has none. A
// [Backend] makes endpoints on a platform; applications call it through a
// [Service].
//
// Who asks is known from the place and the source address alone, as an
// [Asker]; what a request says of itself never counts. The application
// implements [Instances], which turns an Asker into an [Instance]. The same
// address at two places is two machines.
//
// A [Proxy] takes the requests at an endpoint, bounds what one machine may
// take of memory, connections and requests, and hands them to a [Server],
// which answers with the EC2 and OpenStack trees, or to a [Nova], which
// forwards them to an API that works as OpenStack Nova's. All three are
// [net/http.Handler]s, so an application can put its own in between.
//
// IMDSv2 session tokens are given by the Server, without keeping any: they are
// signed, bound to the instance, and sent with a hop limit of one.
//
// # Errors and concurrency
//
// Bad input is a [*vnet.FieldError] before anything is written. Everything
// here may be used from several goroutines.
package metadata
