// Package overlay is the layer 2 of a virtual network: who hears whose frames.
package overlay
