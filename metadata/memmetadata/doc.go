// Package memmetadata is metadata in memory: the smallest backend, for tests
// of applications. Its endpoints are remembered and carry nothing; requests
// are put to a [metadata.Server] by [net/http/httptest].
package memmetadata
