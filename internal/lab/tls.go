package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// TLS names files in PEM: an authority and the certificates it signed. The
// server's is for "localhost", 127.0.0.1 and the underlay's addresses
// 192.0.2.1 to 192.0.2.32.
type TLS struct {
	CA                    string
	ServerCert, ServerKey string
	ClientCert, ClientKey string
}

func (l *Lab) newTLS(dir string) TLS {
	l.t.Helper()
	now := time.Now()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	l.must(err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	l.must(err)
	t := TLS{CA: l.writePEM(dir, "ca.pem", "CERTIFICATE", der)}
	sign := func(serial int64, name string) (cert, key string) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		l.must(err)
		x := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		for i := byte(1); i <= 32; i++ {
			x.IPAddresses = append(x.IPAddresses, net.IPv4(192, 0, 2, i))
		}
		der, err := x509.CreateCertificate(rand.Reader, x, ca, &k.PublicKey, caKey)
		l.must(err)
		raw, err := x509.MarshalECPrivateKey(k)
		l.must(err)
		return l.writePEM(dir, name+"-cert.pem", "CERTIFICATE", der), l.writePEM(dir, name+"-key.pem", "EC PRIVATE KEY", raw)
	}
	t.ServerCert, t.ServerKey = sign(2, "server")
	t.ClientCert, t.ClientKey = sign(3, "client")
	return t
}

func (l *Lab) writePEM(dir, name, kind string, der []byte) string {
	l.t.Helper()
	p := filepath.Join(dir, name)
	l.must(os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return p
}
