package whole

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/reach"
)

// owners makes the same cloud for two owners, ids and addresses and all. Then
// one changes, and goes, while flows of the other flow and its packets arrive
// as ever; and then the other goes, while the first stands anew.
func owners(t *testing.T, h Harness) {
	two := clouds(t, h, 2)
	limit(t, 1+h.Worlds/16, func(t *rapid.T, made func(int)) {
		c := two[0]
		same, other := draw(t, c.want()), draw(t, c.want())
		made(1)
		c.ear.forget()
		for _, step := range []struct {
			what string
			do   func() error
		}{
			{"beginning with nothing", func() error {
				for _, c := range two {
					if err := c.become(reach.World{}); err != nil {
						return err
					}
				}
				return nil
			}},
			{"the same for both", func() error {
				if err := two[0].play(same); err != nil {
					return err
				}
				if err := two[1].play(same); err != nil {
					return err
				}
				return two[0].holds(same.packets)
			}},
			{"the second changes", func() error { return two[0].beside(same, func() error { return two[1].become(other.w) }) }},
			{"the second has changed", func() error { return two[1].holds(other.packets) }},
			{"the second goes", func() error { return two[0].beside(same, func() error { return two[1].become(reach.World{}) }) }},
			{"the second comes again", func() error { return two[0].beside(same, func() error { return two[1].become(same.w) }) }},
			{"the first goes", func() error { return two[1].beside(same, func() error { return two[0].become(reach.World{}) }) }},
		} {
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v%s", step.what, err, story([]turn{same, other}))
			}
		}
	})
}

// beside calls during, which changes nothing here.
func (c *cloud) beside(x turn, during func() error) error {
	if err := c.under(x.packets, x.w, during); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if err := c.stands(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return c.holds(x.packets)
}
