package vnet

import (
	"errors"
	"fmt"
	"strings"
)

// Errors a caller can act on. Test with [errors.Is]; every error of this
// module wraps one of them, a [*FieldError], a [*BudgetError], a context
// error, or the platform's own error.
var (
	// ErrNotFound: the object named does not exist, or is not ours.
	ErrNotFound = errors.New("not found")
	// ErrConflict: something that is not ours, or another object of ours,
	// stands where this one would be.
	ErrConflict = errors.New("conflict")
	// ErrInUse: the object cannot go while others refer to it; the message names them.
	ErrInUse = errors.New("in use")
	// ErrUnsupported: the backend or platform cannot do this; see [*UnsupportedError].
	ErrUnsupported = errors.New("not supported")
	// ErrNotReady: the platform's view is incomplete or the thing waited for
	// has not come; trying again later may do.
	ErrNotReady = errors.New("not ready")
	// ErrBudget: a Sync would delete more than allowed; see [*BudgetError].
	ErrBudget = errors.New("delete budget exceeded")
)

// OpError says what was being done to which object when Err happened.
type OpError struct {
	Op   string // "ensure", "delete", "sync", "plan", "plug", ...
	Kind string // "network", "port", "router", ...
	ID   string // empty when the operation is not about one object
	Err  error
}

func (e *OpError) Error() string {
	if e.ID == "" {
		return fmt.Sprintf("%s %s: %v", e.Op, e.Kind, e.Err)
	}
	return fmt.Sprintf("%s %s %q: %v", e.Op, e.Kind, e.ID, e.Err)
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// FieldError reports bad input: which field, its value, and why it is
// refused. Nothing has been written when one is returned.
type FieldError struct {
	Field  string // path in the input, as "segment.id" or "rules[3].port_range"
	Value  string // the offending value as text; may be empty
	Reason string // completes the sentence "<field> <value> ..."
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return e.Field + " " + e.Reason
	}
	return fmt.Sprintf("%s %q %s", e.Field, e.Value, e.Reason)
}

// In returns err with prefix put before the field of every [*FieldError] in
// it (also of errors joined by [errors.Join]), so that nested objects report
// whole paths. Other errors and nil are returned as they are.
func In(prefix string, err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *FieldError:
		f := *e
		if f.Field == "" {
			f.Field = prefix
		} else if strings.HasPrefix(f.Field, "[") {
			f.Field = prefix + f.Field
		} else {
			f.Field = prefix + "." + f.Field
		}
		return &f
	case interface{ Unwrap() []error }:
		var out []error
		for _, x := range e.Unwrap() {
			out = append(out, In(prefix, x))
		}
		return errors.Join(out...)
	}
	return err
}

// UnsupportedError names a feature that a backend or its platform lacks.
type UnsupportedError struct {
	Feature string // what was asked for, e.g. "VLAN segments"
	Backend string // who refuses, e.g. "linuxoverlay"
	Need    string // what would provide it, e.g. "kernel module 8021q"; may be empty
}

func (e *UnsupportedError) Error() string {
	s := e.Feature + " not supported by " + e.Backend
	if e.Need != "" {
		s += " (needs " + e.Need + ")"
	}
	return s
}

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// BudgetError stops a Sync that would delete more than its budget allows.
// Nothing has been written.
type BudgetError struct {
	Plan     Plan // all that the Sync would have done
	Deletes  int  // objects it would delete
	Existing int  // objects of this part that exist
	Allowed  int  // how many deletions the budget allows
}

func (e *BudgetError) Error() string {
	var names []string
	for _, c := range e.Plan.Changes {
		if c.Verb == Delete {
			if len(names) == 8 {
				names = append(names, "...")
				break
			}
			names = append(names, c.Kind+" "+c.ID)
		}
	}
	return fmt.Sprintf("would delete %d of %d objects, %d allowed: %s", e.Deletes, e.Existing, e.Allowed, strings.Join(names, ", "))
}

// Is makes errors.Is(err, ErrBudget) true.
func (e *BudgetError) Is(target error) bool { return target == ErrBudget }
