package ovssecgroup

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// A record is JSON. A long one is deflated, with a byte in front that no JSON
// begins with and a byte that counts the pieces; what is still too long for one
// flow is cut, and the pieces are objects of their own.
const (
	deflated  = 0x01
	head      = 2
	longText  = 2 << 10  // bytes of JSON from which deflating pays
	longPiece = 48 << 10 // what fits into one flow with room to spare
)

// codec writes and reads records; the zero value is ready. It keeps its
// compressor, which weighs more than a megabyte.
type codec struct {
	w *flate.Writer
}

// pieces is how many further objects a record has.
func pieces(record []byte) int {
	if len(record) < head || record[0] != deflated {
		return 0
	}
	return int(record[1])
}

func pieceID(kind, id string, i int) string { return kind + "/" + id + "/" + strconv.Itoa(i) }

// encode returns what is put down for a record, and puts down its pieces. A
// record that says the same already stays as it is, whoever wrote it.
func (l *ledger) encode(kind, id string, text []byte) ([]byte, error) {
	old, stood := l.st.get(kind, id)
	var out []byte
	if had, err := l.decode(kind, id, old); stood && err == nil && bytes.Equal(had, text) {
		return old, nil
	}
	if len(text) < longText {
		out = text
	} else {
		whole, err := l.codec.deflate(text)
		if err != nil {
			return nil, err
		}
		n := (len(whole) - 1) / longPiece
		if n > 255 {
			return nil, errors.New("is too long")
		}
		for i := range n {
			at := (i + 1) * longPiece
			l.st.put(kindPiece, pieceID(kind, id, i), whole[at:min(at+longPiece, len(whole))], nil)
		}
		out = append([]byte{deflated, byte(n)}, whole[:min(longPiece, len(whole))]...)
	}
	for i := pieces(out); i < pieces(old); i++ {
		l.st.drop(kindPiece, pieceID(kind, id, i))
	}
	return out, nil
}

func (c *codec) deflate(text []byte) ([]byte, error) {
	var b bytes.Buffer
	if c.w == nil {
		w, err := flate.NewWriter(&b, flate.DefaultCompression)
		if err != nil {
			return nil, err
		}
		c.w = w
	} else {
		c.w.Reset(&b)
	}
	if _, err := c.w.Write(text); err != nil {
		return nil, err
	}
	err := c.w.Close()
	return b.Bytes(), err
}

// decode returns the JSON of a record.
func (l *ledger) decode(kind, id string, record []byte) ([]byte, error) {
	if len(record) < head || record[0] != deflated {
		return record, nil
	}
	whole := bytes.NewBuffer(nil)
	whole.Write(record[head:])
	for i := range pieces(record) {
		p, ok := l.st.get(kindPiece, pieceID(kind, id, i))
		if !ok {
			return nil, fmt.Errorf("piece %d is gone", i)
		}
		whole.Write(p)
	}
	r := flate.NewReader(whole)
	defer r.Close()
	return io.ReadAll(r)
}
