package ovssecgroup

import "github.com/vnet-go/vnet/internal/pipeline"

const backendName = "ovssecgroup"

// The tables of this part, and where they lead.
const (
	tablePortSecurity  = pipeline.PortSecurity     // who a port says it is: MAC, and what a neighbour advertisement is about
	tableSource        = pipeline.PortSecurity + 1 // the address that goes with the MAC
	tableEgressTrack   = pipeline.PortSecurity + 2
	tableEgressState   = pipeline.PortSecurity + 3
	tableEgressRules   = pipeline.PortSecurity + 4 // subroutine: the rules of the group in reg6
	tableCommit        = pipeline.Commit           // subroutine
	tableEgressDecide  = pipeline.PortSecurity + 6
	tableDHCP          = pipeline.DHCP
	tableToPort        = pipeline.ToPort
	tableIngressTrack  = pipeline.ToPort + 1
	tableIngressState  = pipeline.ToPort + 2
	tableIngressRules  = pipeline.ToPort + 3 // subroutine
	tableIngressDecide = pipeline.ToPort + 4
	tableDeliver       = pipeline.Deliver
)

// Registers.
const (
	regFlags   = pipeline.RegFlags
	regNetwork = pipeline.RegNetwork
	regIn      = pipeline.RegIn
	regOut     = pipeline.RegOut
	regGroup   = 6 // number of the group whose rules are asked
)

// Bits of reg0: the first ones are of the whole pipeline, 8 to 15 are ours.
const (
	bitOutFiltered = 4 // pipeline.OutFiltered
	bitNew         = 5 // pipeline.New
	// bitItself: the sender's port let the packet pass by a stateless rule. It
	// is known until the receiver's port is asked.
	bitItself = 8
	// The verdict of the rules: a stateless one allows, a stateful one does.
	bitStateless = 9
	bitStateful  = 10
	// bitReceiver: the receiver's port let it pass by a stateless rule.
	bitReceiver = 11
	// bitEnd: the connection is to be marked as ended, see [Backend.endMarked].
	bitEnd = 12
)
