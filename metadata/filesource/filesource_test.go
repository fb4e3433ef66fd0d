package filesource_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
)

const one = `{"instances": [{
  "at": [{"router": "r1", "address": "192.0.2.10"}, {"network": "n1", "mac": "02:00:00:00:00:0a"}],
  "user_data_text": "#!/bin/sh\n",
  "instance": {"uuid": "i-%d", "name": "web"}}]}`

func TestReload(t *testing.T) {
	name := filepath.Join(t.TempDir(), "instances.json")
	write := func(s string, at int64) {
		require.NoError(t, os.WriteFile(name, []byte(s), 0o600))
		require.NoError(t, os.Chtimes(name, time.Unix(at, 0), time.Unix(at, 0)))
	}
	write(fmt.Sprintf(one, 1), 1)
	now := time.Unix(100, 0)
	s, err := filesource.Open(name, &filesource.Options{Now: func() time.Time { return now }})
	require.NoError(t, err)
	asker := metadata.NewAsker("r1", "", netip.MustParseAddr("192.0.2.10"))
	in, err := s.Lookup(t.Context(), asker)
	require.NoError(t, err)
	require.Equal(t, "i-1", in.UUID)
	require.Equal(t, "#!/bin/sh\n", string(in.UserData))
	in, err = s.Lookup(t.Context(), metadata.NewAsker("r9", "n1", netip.MustParseAddr("fe80::ff:fe00:a%eth0")))
	require.NoError(t, err)
	require.Equal(t, "i-1", in.UUID)
	_, err = s.Lookup(t.Context(), metadata.NewAsker("r2", "", netip.MustParseAddr("192.0.2.10")))
	require.ErrorIs(t, err, vnet.ErrNotFound)

	write(fmt.Sprintf(one, 2), 2)
	in, _ = s.Lookup(t.Context(), asker)
	require.Equal(t, "i-1", in.UUID, "not looked at again within the second")
	now = now.Add(2 * time.Second)
	in, _ = s.Lookup(t.Context(), asker)
	require.Equal(t, "i-2", in.UUID)

	write(`{"instances": [{"at": [], "instance": {"uuid": "", "name": "web"}}]}`, 3)
	now = now.Add(2 * time.Second)
	in, err = s.Lookup(t.Context(), asker)
	require.NoError(t, err)
	require.Equal(t, "i-2", in.UUID, "a bad file changes nothing")
	var field *vnet.FieldError
	require.ErrorAs(t, s.Err(), &field)
	require.ErrorContains(t, s.Err(), "instances[0].instance.uuid is empty")
	require.ErrorContains(t, s.Err(), "instances[0].at is empty")
	require.NoError(t, os.Remove(name))
	now = now.Add(2 * time.Second)
	_, err = s.Lookup(t.Context(), asker)
	require.NoError(t, err)
	require.ErrorIs(t, s.Err(), os.ErrNotExist)
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"{\n\n x", "line 3"},
		{"{\"instances\": [],\n\"instance\": []}", `unknown field "instance"`},
		{`{"instances": []} {}`, "after its end"},
		{`{"instances": [{"at": [{"router": "r", "network": "n", "address": "192.0.2.1"}], "instance": {"uuid": "a"}}]}`, "instances[0].at[0].router"},
		{`{"instances": [{"at": [{"router": "r"}], "instance": {"uuid": "a"}}]}`, "instances[0].at[0].address or mac"},
		{`{"instances": [{"at": [{"router": "r", "address": "192.0.2.1"}], "instance": {"uuid": "a"}}, {"at": [{"router": "r", "address": "192.0.2.1"}], "instance": {"uuid": "b"}}]}`, "instances[1].at[0] is also instances[0].at[0]"},
	} {
		name := filepath.Join(t.TempDir(), "f")
		require.NoError(t, os.WriteFile(name, []byte(c.file), 0o600))
		_, err := filesource.Open(name, nil)
		require.ErrorContains(t, err, c.want)
	}
}
