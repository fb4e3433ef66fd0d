// Package qostest is the conformance suite of [qos.Backend]: contract cases,
// then traffic that is measured. A backend's test calls [Run] with a [Harness].
package qostest
