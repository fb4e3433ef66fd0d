// Package nft writes nftables through netlink, for one network namespace at a
// time. It is the only importer of google/nftables, of which it uses the
// encoding of expressions; transactions, sets and elements are its own, on a
// raw socket, so that errno, buffer sizes and the number of messages stay in
// hand.
//
// # Model
//
// A [Conn] is the one writer of a namespace. [Conn.Do] runs one transaction: a
// function declares on a [Tx] what is to stand (tables, sets, chains with all
// their rules, elements) in any order; what differs from what stands is sent
// as one atomic batch, in an order the kernel accepts. Nothing is sent when
// nothing differs, so writing the same again costs no message.
//
// What stands is known without decoding rules: a table of ours has a map
// called fp, from the hash of an object's name to the hash of its content, for
// chains and the definitions of sets. It is written in the same transaction as
// the object and read once when the table is first used. Elements are not
// hashed: those of a set are read once (keys and data are bytes, nothing to
// interpret) and kept in memory, so that adding one element to ten thousand
// costs one element message.
//
// The kernel counts transactions of a namespace ("generation"). Every batch
// says on which generation it was computed; when somebody else has written
// since, the kernel refuses it, what stands is read again, and the transaction
// is computed anew.
//
// # Writing rules
//
// A [Rule] is a list of statements. A [Field] names what a packet carries; its
// methods make matches: IPSrc.Eq(addr), Concat(EtherSrc, IPSrc).In(set),
// IIfName.Vmap(ports). What a match depends on (IPv4 in a family that carries
// both, TCP for a TCP port) is put before it by itself, once per rule. Rules
// print as nft writes them.
package nft
