package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// step is what one Read of a scriptedReader returns, or several if they have
// less room than data needs. The error comes with the last of the data.
type step struct {
	data string
	err  error
}

// scriptedReader returns one step after the other. It ends the test if it is
// read again after the last step, or into no memory.
type scriptedReader struct {
	t     *testing.T
	steps []step
	room  []int // length of the memory of each Read
}

func (s *scriptedReader) Read(p []byte) (int, error) {
	if s.room = append(s.room, len(p)); len(p) == 0 || len(s.steps) == 0 {
		s.t.Fatalf("a read into %d bytes with %d steps left", len(p), len(s.steps))
	}
	next := &s.steps[0]
	n := copy(p, next.data)
	if next.data = next.data[n:]; next.data != "" {
		return n, nil
	}
	s.steps = s.steps[1:]
	return n, next.err
}

// smallFrames are the bodies of frames around every length that matters: with
// and without a head and an id, with the key of Deliver and with another.
var smallFrames = []string{
	"", "a", "\x00\x08", "\x00\x08\x00\x01", "\x00\x08\x00\x01i", "\x00\x08\x00\x01id and more",
	"\x00\x09\x00\x01", "\x00\x09\x00\x01i", "\x80\x08\x00\x01i", "\x00\x00\x00\x00\x00", "",
	"\x00\x08\x00\x02j", "b", "\x00\x08\x00\x01last",
}

func isOwned(body string) bool { return len(body) > HeadLen && strings.HasPrefix(body, "\x00\x08") }

// ownsDeliver makes the reader's Deliver frames come in memory of their own,
// and checks how it asks for that.
func ownsDeliver(t *testing.T, f *FrameReader, bodies []string) {
	bodies = slices.DeleteFunc(slices.Clone(bodies), func(body string) bool { return !isOwned(body) })
	f.Give(KeyDeliver, func(id byte, n int) []byte {
		if len(bodies) == 0 || id != bodies[0][HeadLen] || n != len(bodies[0]) {
			t.Fatalf("asked for %d bytes for the id %q, of %q", n, id, bodies)
		}
		bodies = bodies[1:]
		return make([]byte, n)
	})
}

// eachReader calls test with readers over the same steps: one whose Deliver
// frames have memory of their own, and one without such frames.
func eachReader(
	t *testing.T, bodies []string, steps []step, test func(name string, f *FrameReader, s *scriptedReader),
) {
	t.Helper()
	for _, own := range []bool{false, true} {
		s := &scriptedReader{t: t, steps: slices.Clone(steps)}
		f := NewFrameReader(s, 0)
		if own {
			ownsDeliver(t, f, bodies)
		}
		test(fmt.Sprintf("own memory %v", own), f, s)
	}
}

func framesOf(bodies []string) string {
	var stream []byte
	for _, body := range bodies {
		stream = append(stream, frameOf(body)...)
	}
	return string(stream)
}

// wantFrames reads frames with these bodies.
func wantFrames(t *testing.T, name string, f *FrameReader, bodies []string) {
	t.Helper()
	for i, body := range bodies {
		got, err := f.Next()
		if err != nil || string(got) != body {
			t.Fatalf("%s: frame %d is %q, want %q, %v", name, i, got, body, err)
		}
		if cap(got) != len(got) {
			t.Errorf("%s: frame %d of %d bytes has a capacity of %d", name, i, len(got), cap(got))
		}
	}
}

// TestFrameReaderSplit: the frames are the same wherever two reads, or three
// with an empty one between them, cut the stream.
func TestFrameReaderSplit(t *testing.T) {
	stream := framesOf(smallFrames)
	for k := range len(stream) + 1 {
		for _, steps := range [][]step{
			{{stream[:k], nil}, {stream[k:], nil}, {"", io.EOF}},
			{{stream[:k], nil}, {"", nil}, {stream[k:], io.EOF}, {"", io.EOF}},
		} {
			eachReader(t, smallFrames, steps, func(name string, f *FrameReader, _ *scriptedReader) {
				name = fmt.Sprintf("%s, split at %d", name, k)
				wantFrames(t, name, f, smallFrames)
				if frame, err := f.Next(); err != io.EOF || frame != nil {
					t.Errorf("%s: end: %q, %v", name, frame, err)
				}
			})
		}
	}
}

// TestFrameReaderReadsNoMore: a frame that has arrived is returned without
// another read, which might block.
func TestFrameReaderReadsNoMore(t *testing.T) {
	var steps []step
	for _, body := range smallFrames {
		steps = append(steps, step{data: string(frameOf(body))})
	}
	eachReader(t, smallFrames, steps, func(name string, f *FrameReader, s *scriptedReader) {
		for i, body := range smallFrames {
			wantFrames(t, name, f, []string{body})
			if len(s.steps) != len(smallFrames)-i-1 {
				t.Fatalf("%s: %d reads are left after frame %d", name, len(s.steps), i)
			}
		}
	})
	steps = []step{{data: framesOf(smallFrames)}}
	eachReader(t, smallFrames, steps, func(name string, f *FrameReader, _ *scriptedReader) {
		wantFrames(t, name, f, smallFrames)
	})
}

// TestFrameReaderErrors: an error of the connection comes after the frames that
// have arrived before it, whether it comes with their last bytes or later. An
// end of the stream is clean between two frames only.
func TestFrameReaderErrors(t *testing.T) {
	stream := framesOf(smallFrames)
	broken := errors.New("connection broken")
	for k := range len(stream) + 1 {
		whole, end := 0, 0
		for whole < len(smallFrames) && end+SizeLen+len(smallFrames[whole]) <= k {
			end += SizeLen + len(smallFrames[whole])
			whole++
		}
		for _, failure := range []error{io.EOF, io.ErrUnexpectedEOF, broken} {
			want := failure
			if failure == io.EOF && end != k {
				want = io.ErrUnexpectedEOF
			}
			for _, steps := range [][]step{
				{{stream[:k], nil}, {"", failure}},
				{{stream[:k], failure}, {"", failure}},
				{{stream[:end], nil}, {stream[end:k], failure}, {"", failure}},
				{{stream[:end], nil}, {stream[end:k], nil}, {"", failure}},
			} {
				eachReader(t, smallFrames, steps, func(name string, f *FrameReader, _ *scriptedReader) {
					name = fmt.Sprintf("%s, %v after %d bytes", name, failure, k)
					wantFrames(t, name, f, smallFrames[:whole])
					if frame, err := f.Next(); err != want || frame != nil {
						t.Errorf("%s: %q, %v, want %v", name, frame, err, want)
					}
				})
			}
		}
	}
}

// TestFrameReaderMax: a frame may have as many bytes as the limit says. A new
// limit holds from the next frame on.
func TestFrameReaderMax(t *testing.T) {
	for _, c := range []struct {
		size, max uint32
		ok        bool
	}{
		{0, 1, true}, {1, 1, true}, {2, 1, false}, {7, 8, true}, {8, 8, true}, {9, 8, false}, {9, 0, true},
		{1<<31 - 1, 1<<31 - 1, true}, {1<<31 - 1, 1<<31 - 2, false}, {1<<31 - 1, 0, true},
		{1 << 31, 0, false}, {1 << 31, 1<<32 - 1, false}, {1<<32 - 1, 1<<32 - 1, false}, {1<<32 - 1, 0, false},
	} {
		size := string(binary.BigEndian.AppendUint32(nil, c.size))
		steps := []step{{"\x00\x00\x00\x01a", nil}, {size + "12345678", io.EOF}, {"", io.EOF}}
		f := NewFrameReader(&scriptedReader{t: t, steps: steps}, 0)
		wantFrames(t, "no limit", f, []string{"a"})
		f.SetMax(c.max)
		frame, err := f.Next()
		switch {
		case !c.ok:
			want := fmt.Sprintf("frame too large: %d bytes, limit %d", c.size, c.max)
			if !errors.Is(err, ErrFrameTooLarge) || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		case c.size <= 8:
			if err != nil || len(frame) != int(c.size) {
				t.Errorf("%d bytes with a limit of %d: %d, %v", c.size, c.max, len(frame), err)
			}
		case err != io.ErrUnexpectedEOF:
			t.Errorf("%d bytes with a limit of %d: %v", c.size, c.max, err)
		}
	}
}

func TestMakeRoom(t *testing.T) {
	const content = "0123456789abcdef"
	for name, c := range map[string]struct {
		start, end, n      int
		wantStart, wantEnd int
		wantLen            int
	}{
		"empty at the front":       {0, 0, 4, 0, 0, 16},
		"empty in the middle":      {5, 5, 4, 0, 0, 16},
		"empty at the end":         {16, 16, 4, 0, 0, 16},
		"enough room":              {5, 9, 10, 5, 9, 16},
		"exactly enough room":      {5, 9, 11, 5, 9, 16},
		"a byte too little":        {5, 9, 12, 0, 4, 16},
		"too little and full":      {5, 16, 12, 0, 11, 16},
		"more than there is":       {5, 9, 100, 0, 4, 16},
		"from the front":           {0, 9, 12, 0, 9, 16},
		"from the front, too much": {0, 15, 17, 0, 15, 16},
		"full":                     {0, 16, 17, 0, 16, initialBuffer},
		"full of little":           {0, 16, 4, 0, 16, initialBuffer},
	} {
		f := FrameReader{buf: []byte(content), start: c.start, end: c.end}
		f.makeRoom(c.n)
		if f.start != c.wantStart || f.end != c.wantEnd || len(f.buf) != c.wantLen ||
			string(f.buf[f.start:f.end]) != content[c.start:c.end] {
			t.Errorf("%s: %q from %d to %d of %d", name, f.buf[f.start:f.end], f.start, f.end, len(f.buf))
		}
	}
	for length, want := range map[int]int{
		0: initialBuffer, 1: initialBuffer,
		initialBuffer/2 - 1: initialBuffer, initialBuffer / 2: initialBuffer,
		initialBuffer/2 + 1: initialBuffer + 2,
		initialBuffer:       2 * initialBuffer, 2 * initialBuffer: 4 * initialBuffer,
	} {
		f := FrameReader{buf: make([]byte, length), end: length}
		if f.makeRoom(length + 1); len(f.buf) != want {
			t.Errorf("a full buffer of %d bytes grows to %d, want %d", length, len(f.buf), want)
		}
	}
}

// TestFrameReaderBuffer: the buffer is as large as the largest frame so far
// needs, and small frames do not make it grow however many there are.
func TestFrameReaderBuffer(t *testing.T) {
	for size, want := range map[int]int{
		0: initialBuffer, 1: initialBuffer,
		initialBuffer - SizeLen: initialBuffer, initialBuffer - 1: initialBuffer, initialBuffer: initialBuffer,
		initialBuffer + 1: 2 * initialBuffer, 2 * initialBuffer: 2 * initialBuffer,
		2*initialBuffer + 1: 4 * initialBuffer,
	} {
		bodies := []string{"before", strings.Repeat("x", size), "behind", strings.Repeat("y", size)}
		f := NewFrameReader(&scriptedReader{t: t, steps: []step{{data: framesOf(bodies)}}}, 0)
		wantFrames(t, "", f, bodies)
		if len(f.buf) != want {
			t.Errorf("a buffer of %d bytes for frames of %d, want %d", len(f.buf), size, want)
		}
	}
	bodies := slices.Repeat([]string{strings.Repeat("x", 1000)}, 100)
	f := NewFrameReader(strict(t, strings.NewReader(framesOf(bodies))), 0)
	wantFrames(t, "small frames", f, bodies)
	if len(f.buf) != initialBuffer {
		t.Errorf("a buffer of %d bytes", len(f.buf))
	}
}

// TestFrameReaderRoom: a read gets all the room that there is: the whole buffer
// when nothing is buffered.
func TestFrameReaderRoom(t *testing.T) {
	frame := string(frameOf("12345678"))
	s := &scriptedReader{t: t, steps: []step{
		{data: frame}, {data: frame + frame},
		{data: frame + frame[:2]}, {data: frame[2:6]}, {data: frame[6:]}, {data: frame},
	}}
	f := NewFrameReader(s, 0)
	wantFrames(t, "", f, slices.Repeat([]string{"12345678"}, 6))
	const all = initialBuffer
	if want := []int{all, all, all, all - 14, all - 18, all}; !slices.Equal(s.room, want) {
		t.Errorf("reads into %v bytes, want %v", s.room, want)
	}
}

// zeros is a stream of zeros behind a start. It notes how much room each read
// gets, and reads no more than atOnce.
type zeros struct {
	start  []byte
	atOnce int
	room   []int
}

func (z *zeros) Read(p []byte) (int, error) {
	z.room = append(z.room, len(p))
	if n := copy(p, z.start); n > 0 {
		z.start = z.start[n:]
		return n, nil
	}
	if len(p) == 0 {
		return 0, errors.New("a read into nothing")
	}
	return min(len(p), z.atOnce), nil
}

// TestFrameReaderOwnGrowth: memory for a frame is asked for if it has ownAtOnce
// bytes or fewer. For a larger one it grows fourfold, and only when it is full.
func TestFrameReaderOwnGrowth(t *testing.T) {
	const known, mib = HeadLen + 1, 1 << 20 // known is what is buffered before
	for _, c := range []struct {
		size, atOnce int
		asked        bool
		room         []int
	}{
		{known, 1, true, nil},
		{smallFrame + 1, smallFrame, true, []int{smallFrame + 1 - known}},
		{smallFrame + 10, smallFrame, true, []int{smallFrame + 10 - known, 10 - known}},
		{ownAtOnce - 1, 100 * mib, true, []int{ownAtOnce - 1 - known}},
		{ownAtOnce, 100 * mib, true, []int{ownAtOnce - known}},
		{ownAtOnce + 1, 100 * mib, false, []int{ownAtOnce - known, 1}},
		{4 * ownAtOnce, 100 * mib, false, []int{ownAtOnce - known, 3 * ownAtOnce}},
		{4*ownAtOnce + 1, 100 * mib, false, []int{ownAtOnce - known, 3 * ownAtOnce, 1}},
		{2*ownAtOnce + 1, 3 * mib, false, []int{4*mib - known, mib - known, 4*mib + 1, mib + 1}},
	} {
		start := binary.BigEndian.AppendUint32(nil, uint32(c.size))
		start = append(start, "\x00\x08\x00\x01i"...)
		z := &zeros{start: start, atOnce: c.atOnce}
		f := NewFrameReader(z, 0)
		asked := false
		f.Give(KeyDeliver, func(id byte, n int) []byte {
			if asked = true; id != 'i' || n != c.size {
				t.Errorf("asked for %d bytes for %q", n, id)
			}
			return make([]byte, n)
		})
		frame, err := f.Next()
		if err != nil || len(frame) != c.size || !bytes.Equal(frame[:known], start[SizeLen:]) {
			t.Errorf("a frame of %d bytes: %d, %v", c.size, len(frame), err)
		}
		if asked != c.asked {
			t.Errorf("asked for the memory of %d bytes: %v", c.size, asked)
		}
		if got := z.room[1:]; !slices.Equal(got, c.room) {
			t.Errorf("a frame of %d bytes is read into %v, want %v", c.size, got, c.room)
		}
		if f.start != f.end {
			t.Errorf("a frame of %d bytes leaves %d in the buffer", c.size, f.end-f.start)
		}
	}
}

// TestFrameReaderReady: it knows whether the next frame needs a read.
func TestFrameReaderReady(t *testing.T) {
	frame := func(size int) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(size))
		return append(b, "\x00\x08\x00\x01i"+strings.Repeat("x", size-HeadLen-1)...)
	}
	for name, test := range map[string]struct {
		rest []byte
		want bool
	}{
		"nothing":          {nil, false},
		"half a size":      {[]byte{0, 0, 0}, false},
		"a size":           {frame(9)[:SizeLen], false},
		"all but a byte":   {frame(9)[:SizeLen+8], false},
		"a frame":          {frame(9), true},
		"a frame and more": {append(frame(9), 1), true},
		"an empty frame":   {[]byte{0, 0, 0, 0}, true},
		"a huge one":       {[]byte{255, 255, 255, 255, 1}, true}, // Next refuses it at once
	} {
		f := NewFrameReader(bytes.NewReader(append(frame(5), test.rest...)), 0)
		f.Give(KeyDeliver, func(_ byte, n int) []byte { return make([]byte, n) })
		if f.Ready() {
			t.Errorf("%s: ready before anything is read", name)
		}
		if _, err := f.Next(); err != nil || f.Ready() != test.want {
			t.Errorf("%s: ready is %v, %v", name, f.Ready(), err)
		}
	}
}

// TestFrameReaderSmallOwnFrames: many of them cost one read.
func TestFrameReaderSmallOwnFrames(t *testing.T) {
	for size, reads := range map[int]int{100: 1, smallFrame: 3, smallFrame + 1: 8} {
		const n = 8
		b := binary.BigEndian.AppendUint32(nil, uint32(size))
		b = append(b, "\x00\x08\x00\x01i"...)
		b = append(b, make([]byte, size-HeadLen-1)...)
		s := &zeros{start: bytes.Repeat(b, n)}
		f := NewFrameReader(s, 0)
		f.Give(KeyDeliver, func(_ byte, n int) []byte { return make([]byte, n) })
		for range n {
			if frame, err := f.Next(); err != nil || !bytes.Equal(frame, b[SizeLen:]) {
				t.Fatalf("%d bytes: %d, %v", size, len(frame), err)
			}
		}
		if len(s.room) > reads {
			t.Errorf("%d frames of %d bytes cost %d reads, want %d", n, size, len(s.room), reads)
		}
	}
}
