package vnet

import "time"

// Event is something that happened outside the process or by its own doing
// that an application may want to know: a port's link came up, a lease was
// given, a request was refused.
type Event struct {
	Time   time.Time         `json:"time"`
	Part   Part              `json:"part"`
	Kind   string            `json:"kind"` // "port-up", "port-down", "lease", "release", "decline", "lost", ...
	ID     string            `json:"id"`   // the object it happened to
	Detail map[string]string `json:"detail,omitempty"`
}

// EventLost is the Kind of the event that stands for events dropped because
// the watcher was too slow: it should look at the whole state again.
const EventLost = "lost"
