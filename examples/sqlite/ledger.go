package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/tidemark-go/tidemark/stream"
	_ "modernc.org/sqlite" // the driver "sqlite", in Go alone
)

// ledger adds up numbers in SQLite, each exactly once: a number and the offset
// of its message are written in one transaction. It is the consumer's
// OffsetStore as well, so that a run begins at what was committed.
type ledger struct {
	db   *sql.DB
	name string // the consumer's
}

// Save would write an offset apart from its effect. The consumer never calls
// it, because its StorePolicy is Manual.
func (l *ledger) Save(context.Context, string, string, uint64) error {
	return errors.New("the ledger writes offsets with their effects only")
}

// Load returns the offset that the last transaction has committed.
func (l *ledger) Load(ctx context.Context, consumer, streamName string) (uint64, bool, error) {
	return load(ctx, l.db, consumer, streamName)
}

const schema = `
CREATE TABLE IF NOT EXISTS offsets (
	consumer TEXT NOT NULL, stream TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (consumer, stream));
CREATE TABLE IF NOT EXISTS total (
	consumer TEXT PRIMARY KEY, numbers INTEGER NOT NULL, sum INTEGER NOT NULL)`

// openLedger opens the file, and creates it if it does not exist.
func openLedger(ctx context.Context, file, consumer string) (*ledger, error) {
	// A transaction takes the write lock when it begins, so two processes with
	// one name take turns, and the second sees the offset that the first has
	// written.
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	return &ledger{db, consumer}, nil
}

// add handles a batch in one transaction. It passes over what an earlier
// transaction has added: one whose commit has worked although its outcome was
// not seen, or one of another process with the same name.
func (l *ledger) add(ctx context.Context, batch []stream.Delivery) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after Commit
	done, any, err := load(ctx, tx, l.name, batch[0].Stream)
	if err != nil {
		return err
	}
	var n, sum int64
	for i := range batch {
		if any && batch[i].Offset <= done {
			continue
		}
		number, err := strconv.ParseInt(string(batch[i].Body), 10, 64)
		if err != nil {
			return fmt.Errorf("offset %d: %w", batch[i].Offset, err)
		}
		n, sum = n+1, sum+number
	}
	if n == 0 {
		return nil
	}
	if err := l.write(ctx, tx, &batch[len(batch)-1], n, sum); err != nil {
		return err
	}
	return tx.Commit()
}

// write writes the effect and the offset.
func (l *ledger) write(ctx context.Context, tx *sql.Tx, last *stream.Delivery, n, sum int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO total VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET numbers = numbers + excluded.numbers, sum = sum + excluded.sum`, l.name, n, sum)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO offsets VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET offset = excluded.offset`, l.name, last.Stream, int64(last.Offset))
	return err
}

// total returns how many numbers were added, and to what.
func (l *ledger) total(ctx context.Context) (numbers, sum int64, err error) {
	err = l.db.QueryRowContext(ctx, "SELECT numbers, sum FROM total WHERE consumer = ?", l.name).Scan(&numbers, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return numbers, sum, err
}

// load reads an offset, within a transaction or not.
func load(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, consumer, streamName string) (uint64, bool, error) {
	var offset int64
	err := db.QueryRowContext(ctx, "SELECT offset FROM offsets WHERE consumer = ? AND stream = ?", consumer, streamName).Scan(&offset)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return uint64(offset), err == nil, err
}
