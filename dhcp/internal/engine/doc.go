// Package engine is what DHCP backends share whose server is the process
// itself: what is served, frames in and out, limits, and the worker that
// answers the frames of one network. How frames come and go is the backend's.
package engine
