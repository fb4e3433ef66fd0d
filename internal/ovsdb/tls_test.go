package ovsdb

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
)

// authority is a CA for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a := &authority{t: t, key: key, dir: t.TempDir()}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.write("ca", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) string {
	p := filepath.Join(a.dir, name+".pem")
	require.NoError(a.t, os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return p
}

// issue makes a certificate as ovs-pki does: a common name and nothing else.
func (a *authority) issue(name string) (cert tls.Certificate, certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	require.NoError(a.t, err)
	k, err := x509.MarshalECPrivateKey(key)
	require.NoError(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, a.write(name, "CERTIFICATE", der), a.write(name+"-key", "EC PRIVATE KEY", k)
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func TestTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	ca, stranger := newAuthority(t), newAuthority(t)
	_, cert, key := ca.issue("server")
	ovsdbtest.New(t, ovsdbtest.NB, "--remote=pssl:"+port+":127.0.0.1", "--private-key="+key, "--certificate="+cert,
		"--ca-cert="+filepath.Join(ca.dir, "ca.pem"))
	mine, _, _ := ca.issue("client")
	theirs, _, _ := stranger.issue("client")
	endpoint := "ssl:127.0.0.1:" + port
	with := func(limit time.Duration, cfg *tls.Config) error {
		o := quick()
		o.TLS = cfg
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := open(t, o, endpoint).Ready(ctx)
		return err
	}
	require.NoError(t, with(time.Minute, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{mine}}))
	require.ErrorIs(t, with(700*time.Millisecond, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{theirs}}), vnet.ErrNotReady, "a client of another CA")
	require.ErrorIs(t, with(700*time.Millisecond, &tls.Config{RootCAs: ca.pool()}), vnet.ErrNotReady, "a client without certificate")
	err = with(700*time.Millisecond, &tls.Config{RootCAs: stranger.pool(), Certificates: []tls.Certificate{theirs}})
	require.ErrorContains(t, err, "unknown authority", "a server of another CA")
	err = with(700*time.Millisecond, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{mine}, ServerName: "elsewhere"})
	require.ErrorContains(t, err, "not valid for any names", "a name that is asked for is verified")
	_, err = NewClient(nbSpec(t), []string{endpoint}, nil)
	require.ErrorContains(t, err, "TLS")
}

func TestParseEndpoint(t *testing.T) {
	for _, good := range []string{"tcp:127.0.0.1:6641", "ssl:[fd00::1]:6641", "unix:/run/x.sock", "tcp:host.example:1"} {
		e, err := ParseEndpoint(good)
		require.NoError(t, err)
		require.Equal(t, good, e.String())
	}
	for _, bad := range []string{"", "tcp", "tcp:", "tcp:host", "tcp:host:", "unix:", "ptcp:6641", "/run/x.sock", "http://x"} {
		_, err := ParseEndpoint(bad)
		var f *vnet.FieldError
		require.ErrorAs(t, err, &f, bad)
	}
	_, err := NewClient(nbSpec(t), []string{"unix:/a,unix:"}, nil)
	require.ErrorContains(t, err, strings.TrimSpace("has no path"))
	_, err = NewClient(nbSpec(t), nil, nil)
	require.Error(t, err)
}
