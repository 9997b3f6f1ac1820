package broker

import (
	"context"
	"sync"
)

// goodbyes closes connections in the background, for those who do not wait.
type goodbyes struct {
	wg    sync.WaitGroup
	ctx   context.Context
	hurry context.CancelFunc // ends ctx
}

func newGoodbyes() *goodbyes {
	ctx, cancel := context.WithCancel(context.Background())
	return &goodbyes{ctx: ctx, hurry: cancel}
}

// say closes a connection politely.
func (g *goodbyes) say(c *Conn) { g.wg.Go(func() { c.CloseWithin(g.ctx) }) }

// wait returns when every connection is closed. Once ctx has ended, nobody waits
// for a peer any longer.
func (g *goodbyes) wait(ctx context.Context) {
	defer context.AfterFunc(ctx, g.hurry)()
	g.wg.Wait()
}
