package overlaytest

func packetCases() []Case { return nil }
func randomCases() []Case { return nil }
