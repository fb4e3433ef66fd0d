package vnet

import "time"

// Health says how far a backend's view of its platform can be trusted.
// Nothing is deleted on a view that is not Complete.
type Health struct {
	Complete bool          `json:"complete"`         // the view was loaded whole
	Since    time.Time     `json:"since"`            // when it last became so, or stopped being so
	Lag      time.Duration `json:"lag,omitempty"`    // how old the view may be
	Detail   string        `json:"detail,omitempty"` // why not, or which mode is in use, for people
}
