// Package murmur3 has the hash by which RabbitMQ's stream clients choose the
// partition of a key: MurmurHash3 x86, 32 bits, as Austin Appleby published it. It
// is pure. It is ours because it is this short, and because the module that the
// official Go client uses reads through unsafe pointers and is not kept any more.
package murmur3

import "math/bits"

// Seed is the one that the clients have in common, of Java, .NET, Go, JavaScript
// and Rust alike.
const Seed = 104729

const (
	c1 = 0xcc9e2d51
	c2 = 0x1b873593
)

// Sum32 returns the hash of a key's bytes.
func Sum32(key string) uint32 {
	h, size := uint32(Seed), uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		h ^= mix(uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24)
		h = bits.RotateLeft32(h, 13)*5 + 0xe6546b64
	}
	var tail uint32
	for i := len(key) - 1; i >= 0; i-- {
		tail = tail<<8 | uint32(key[i])
	}
	return finish(h ^ mix(tail) ^ size)
}

// mix spreads the bits of four bytes. It makes 0 of 0, so that no tail needs no
// step of its own.
func mix(k uint32) uint32 { return bits.RotateLeft32(k*c1, 15) * c2 }

// finish spreads the bits of the whole hash.
func finish(h uint32) uint32 {
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// Partition returns which of n partitions a key belongs to, from 0 on. n is at
// least 1.
func Partition(key string, n int) int { return int(Sum32(key) % uint32(n)) }
