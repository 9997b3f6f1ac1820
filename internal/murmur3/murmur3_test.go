package murmur3

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/internal/check"
)

// TestVectors: published hashes, and partitions that users of other clients see.
func TestVectors(t *testing.T) {
	for key, want := range map[string]uint32{
		"hello": 1321743225, "brave": 3825276426, "new": 2970740106, "world": 2453398188, "": 3329588566,
		"é": 2922484690, "日本": 2230178032, "key-1": 899319889,
	} {
		if got := Sum32(key); got != want {
			t.Errorf("the hash of %q is %d, want %d", key, got, want)
		}
	}
	for key, want := range map[string]int{
		"hello1": 1, "hello2": 0, "hello3": 1, "hello4": 2, "hello5": 0, "hello6": 2, "hello7": 0, "hello8": 1, "hello9": 0, "hello10": 2, "hello88": 1,
	} {
		if got := Partition(key, 3); got != want {
			t.Errorf("%q belongs to partition %d of 3, want %d", key, got, want)
		}
	}
}

// keys returns 10,000 keys, always the same ones: an empty one, short and long
// ones, each of them from a few neighbouring blocks of Unicode, which are all
// covered.
func keys() (list []string) {
	random := rand.New(rand.NewPCG(10, 4))
	for i := range 10_000 {
		n := i % 50
		if i%500 == 499 {
			n = random.IntN(5000)
		}
		key := make([]rune, n)
		block := random.IntN(0x110000)
		if i%2 == 0 {
			block = random.IntN(0x3000)
		}
		for j := range key {
			key[j] = rune(block+random.IntN(256)) % 0x110000
			if key[j] >= 0xd800 && key[j] < 0xe000 { // no character of its own
				key[j] = 'x'
			}
		}
		list = append(list, string(key))
	}
	return list
}

// chosen returns which of n partitions the official Go client gives each key.
func chosen(t *testing.T, n int, keys []string) (list []int) {
	t.Helper()
	key, places, partitions := "", map[string]int{}, make([]string, n)
	for i := range partitions {
		partitions[i] = string(rune('a' + i))
		places[partitions[i]] = i
	}
	strategy := official.NewHashRoutingStrategy(func(message.StreamMessage) string { return key })
	m := amqp.NewMessage(nil)
	for _, key = range keys {
		route, err := strategy.Route(m, partitions)
		check.Nil(t, err)
		list = append(list, places[route[0]])
	}
	return list
}

// TestOfficialClient: each of 10,000 keys belongs to the partition that the
// official Go client chooses.
func TestOfficialClient(t *testing.T) {
	keys := keys()
	for _, n := range []int{1, 2, 3, 7, 100, 1000} {
		for i, want := range chosen(t, n, keys) {
			if got := Partition(keys[i], n); got != want {
				t.Fatalf("of %d partitions, %q belongs to %d, and to %d for the official client", n, keys[i], got, want)
			}
		}
	}
}

// TestJava: the hashes of the 10,000 keys are those of the Java client, which
// testdata/Vectors.java has written. With MURMUR3_KEYS set, the test writes the
// keys to that file instead.
func TestJava(t *testing.T) {
	keys := keys()
	if path := os.Getenv("MURMUR3_KEYS"); path != "" {
		var b []byte
		for _, key := range keys {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(key))), key...)
		}
		check.Nil(t, os.WriteFile(path, b, 0o600))
		return
	}
	want, err := os.ReadFile("testdata/java-hashes.bin")
	check.Nil(t, err)
	var got bytes.Buffer
	for _, key := range keys {
		check.Nil(t, binary.Write(&got, binary.BigEndian, Sum32(key)))
	}
	if len(want) != got.Len() {
		t.Fatalf("there are %d hashes, want %d", len(want)/4, len(keys))
	}
	for i := range keys {
		if g, w := got.Bytes()[4*i:4*i+4], want[4*i:4*i+4]; !bytes.Equal(g, w) {
			t.Fatalf("the hash of %q is %x, and %x in Java", keys[i], g, w)
		}
	}
}

// FuzzSum32 compares with the official client on any bytes.
func FuzzSum32(f *testing.F) {
	for _, key := range keys()[:60] {
		f.Add(key)
	}
	f.Add("\xff\xfe\xfd")
	f.Fuzz(func(t *testing.T, key string) {
		const n = 1000
		if got, want := Partition(key, n), chosen(t, n, []string{key})[0]; got != want {
			t.Errorf("%q belongs to %d, and to %d for the official client", key, got, want)
		}
	})
}
