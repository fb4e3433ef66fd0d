package metadata

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Headers and bounds of IMDSv2,
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
const (
	headerToken = "X-Aws-Ec2-Metadata-Token"
	headerTTL   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	tokenPath   = "latest/api/token"
	maxTokenTTL = 21600 // seconds
)

// tokens makes and checks tokens without keeping any: a token is its expiry
// and a nonce, signed together with the instance it was given to.
//
//	8 bytes expiry (Unix seconds), 8 bytes nonce, 32 bytes HMAC-SHA256
type tokens struct{ key []byte }

func newTokens(key []byte) (tokens, error) {
	if len(key) > 0 {
		if len(key) < 16 {
			return tokens{}, bad("token_key", "", fmt.Sprintf("has %d bytes, fewer than 16", len(key)))
		}
		return tokens{key: append([]byte(nil), key...)}, nil
	}
	k := make([]byte, 32)
	_, err := rand.Read(k)
	return tokens{key: k}, err
}

func (t tokens) sign(head []byte, instance string) []byte {
	m := hmac.New(sha256.New, t.key)
	m.Write([]byte("vnet metadata token\x00"))
	m.Write(head)
	m.Write([]byte(instance))
	return m.Sum(nil)
}

func (t tokens) give(instance string, ttl time.Duration, now time.Time) (string, error) {
	head := make([]byte, 16, 48)
	binary.BigEndian.PutUint64(head, uint64(now.Add(ttl).Unix()))
	if _, err := rand.Read(head[8:]); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append(head, t.sign(head, instance)...)), nil
}

var errToken = errors.New("token is not valid")

// check returns how long the token is still good for.
func (t tokens) check(token, instance string, now time.Time) (time.Duration, error) {
	if len(token) > 128 {
		return 0, errToken
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 48 || !hmac.Equal(b[16:], t.sign(b[:16], instance)) {
		return 0, errToken
	}
	left := time.Unix(int64(binary.BigEndian.Uint64(b)), 0).Sub(now)
	if left <= 0 {
		return 0, errToken
	}
	return left, nil
}
