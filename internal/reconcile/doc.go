// Package reconcile brings what stands to what is wanted: what differs, in an
// order in which nothing dangles, within a delete budget, and without deleting
// on a view that is not complete. It is pure; what to do about a difference is
// the caller's.
//
// A backend puts its kinds of objects into a [Set], those that others refer to
// first (networks before ports), and gets one plan: what is new or different in
// that order, then what goes in the opposite one.
//
//	var s reconcile.Set
//	reconcile.Add(&s, reconcile.Kind[string, overlay.Network]{Diff: overlay.DiffNetwork, Do: b.network}, was.networks, want.networks)
//	reconcile.Add(&s, reconcile.Kind[string, overlay.Port]{Diff: overlay.DiffPort, Do: b.port}, was.ports, want.ports)
//	err := s.Run(ctx, o, view.Complete)
package reconcile
