package sriov

import (
	"context"

	"github.com/vnet-go/vnet"
)

// Backend gives the functions of one host's cards. It gets validated, canonical
// objects. Plan, Sync and Ensure go one way; a second call writes nothing; a
// delete of what is gone is no error. In addition:
//
//   - A function is given to one port at a time, of all owners and processes.
//   - The number of VFs and the mode of a device change only while no port has a
//     function of it and nobody else uses one ([vnet.ErrInUse], by name).
//   - A port keeps its function for as long as that can give what the port asks
//     for. What can be changed on it is changed there.
//   - A port whose settings the driver refuses gets [*SettingError] and, if it
//     had none before, no function.
//   - A function that a machine still holds open cannot be taken back
//     ([vnet.ErrInUse]).
//   - Deleting a port resets its function to what it was. Deleting a device
//     resets the PF, and is [vnet.ErrInUse] while ports have functions of it.
type Backend interface {
	// Discover returns all PFs of the host, with their VFs, by PCI address.
	Discover(ctx context.Context) ([]PF, error)
	EnsureDevice(ctx context.Context, d Device) error
	DeleteDevice(ctx context.Context, id string) error
	EnsurePort(ctx context.Context, p Port) (Attachment, error)
	DeletePort(ctx context.Context, id string) error
	// Attachments returns those of all ports of this owner, by port.
	Attachments(ctx context.Context) ([]Attachment, error)
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
}
