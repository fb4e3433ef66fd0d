package whole

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
)

// turn is a world and what is sent in it.
type turn struct {
	w       reach.World
	packets []reach.Packet
}

func draw(t *rapid.T, want reachtest.Want) turn {
	x := turn{w: fit(reachtest.World(t, want))}
	x.packets = everyWay(x.w)
	for range rapid.IntRange(1, 12).Draw(t, "packets") {
		x.packets = append(x.packets, reachtest.Packet(t, x.w))
	}
	return x
}

// limit runs f for what rapid draws until n worlds have been made. What fails
// is drawn again, smaller, as often as rapid likes. f returns how many worlds it
// makes, before it makes them.
func limit(t *testing.T, n int, f func(t *rapid.T, made func(worlds int))) {
	played, failed := 0, false
	rapid.Check(t, func(t *rapid.T) {
		if played >= n && !failed {
			return
		}
		failed = true
		f(t, func(worlds int) { played += worlds })
		failed = false
	})
}

// worlds makes worlds, one from the other and the first from nothing.
func worlds(t *testing.T, h Harness) {
	c := clouds(t, h, 1)[0]
	limit(t, h.Worlds, func(t *rapid.T, made func(int)) {
		var turns []turn
		for range 1 + rapid.IntRange(0, 2).Draw(t, "worlds before") {
			turns = append(turns, draw(t, c.want()))
		}
		made(len(turns))
		c.ear.forget()
		err := c.become(reach.World{})
		for i := 0; err == nil && i < len(turns); i++ {
			if err = c.play(turns[i]); err != nil {
				err = fmt.Errorf("world %d: %w%s", i, err, story(turns[:i+1]))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func story(turns []turn) string {
	var b strings.Builder
	for i, x := range turns {
		fmt.Fprintf(&b, "\nworld %d:%s", i, text(x.w))
	}
	return b.String()
}

// play makes a world and sends its packets.
func (c *cloud) play(x turn) error {
	if err := c.become(x.w); err != nil {
		return err
	}
	return c.holds(x.packets)
}

// holds sends packets in the world that stands, and their answers.
func (c *cloud) holds(packets []reach.Packet) error {
	for _, m := range c.machines {
		m.announce()
	}
	var probes, answers []*probe
	for _, k := range packets {
		if p := c.probe(k); c.looksAt(p) {
			probes = append(probes, p)
		}
	}
	if err := c.send(probes); err != nil {
		return err
	}
	for _, p := range probes {
		if !c.answered(p) {
			continue
		}
		if a := c.answer(p); c.looksAt(a) {
			answers = append(answers, a)
		}
	}
	return c.send(answers)
}
