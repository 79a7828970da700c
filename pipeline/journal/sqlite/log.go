package sqlite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// compressFrom is the size below which zstd gains nothing.
	compressFrom = 256
	// maxChunk bounds what one chunk may decompress to.
	maxChunk = 64 << 20
	// maxLogRead bounds the lines one call returns.
	maxLogRead = 100_000
)

const (
	codecPlain = 0
	codecZstd  = 1
)

// Both are safe for concurrent EncodeAll and DecodeAll.
var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxChunk), zstd.WithDecoderConcurrency(1))
)

// AppendLog implements journal.Journal. Beyond the run's limit lines are
// dropped behind one that says so; that is no error.
func (j *Journal) AppendLog(ctx context.Context, runID string, lines ...journal.Line) error {
	if len(lines) == 0 {
		return nil
	}
	stored := append([]journal.Line(nil), lines...)
	err := j.writer.do(ctx, false, runID, func(ctx context.Context) error {
		return j.writer.appendLog(ctx, runID, stored)
	})
	if err != nil {
		return fmt.Errorf("append to the log of run %q: %w", runID, err)
	}
	copy(lines, stored)
	return nil
}

func (w *writer) appendLog(ctx context.Context, runID string, lines []journal.Line) error {
	r, err := w.row(ctx, runID)
	if err != nil {
		return err
	}
	if r.logFull {
		return nil
	}
	keep := 0
	for ; keep < len(lines); keep++ {
		size := int64(len(lines[keep].Text)) + 1
		if r.logBytes+size > w.logLimit {
			break
		}
		r.logBytes += size
	}
	kept := lines[:keep]
	if keep < len(lines) {
		r.logFull = true
		cut := lines[keep]
		cut.Stream = "tidegate"
		cut.Text = fmt.Sprintf("log cut here: the run's log reached its limit of %d bytes; what follows is not stored", w.logLimit)
		kept = append(append([]journal.Line(nil), kept...), cut)
	}
	for i := range kept {
		r.logSeq++
		kept[i].Seq = r.logSeq
	}
	for len(kept) > 0 {
		n := 1
		for n < len(kept) && kept[n].Stage == kept[0].Stage {
			n++
		}
		codec, data, err := encodeChunk(kept[:n])
		if err != nil {
			return err
		}
		if err := w.exec(ctx, insertChunk, r.number, kept[n-1].Seq, kept[0].Seq, kept[0].Stage, codec, data); err != nil {
			return err
		}
		kept = kept[n:]
	}
	return w.exec(ctx, updateLog, r.logSeq, r.logBytes, r.logFull, r.number)
}

func encodeChunk(lines []journal.Line) (codec int, data []byte, err error) {
	var buffer bytes.Buffer
	encode := json.NewEncoder(&buffer)
	encode.SetEscapeHTML(false)
	for i := range lines {
		lines[i].Time = lines[i].Time.UTC().Truncate(time.Microsecond)
		if err := encode.Encode(lines[i]); err != nil {
			return 0, nil, fmt.Errorf("encode log lines: %w", err)
		}
	}
	if buffer.Len() < compressFrom {
		return codecPlain, buffer.Bytes(), nil
	}
	return codecZstd, encoder.EncodeAll(buffer.Bytes(), make([]byte, 0, buffer.Len()/4)), nil
}

func decodeChunk(codec int, data []byte) ([]journal.Line, error) {
	if codec == codecZstd {
		plain, err := decoder.DecodeAll(data, nil)
		if err != nil {
			return nil, fmt.Errorf("decompress log lines: %w", err)
		}
		data = plain
	}
	var lines []journal.Line
	decode := json.NewDecoder(bytes.NewReader(data))
	for decode.More() {
		var line journal.Line
		if err := decode.Decode(&line); err != nil {
			return nil, fmt.Errorf("decode log line: %w", err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// Log implements journal.Journal. A limit of 0 or below, or beyond 100,000,
// means 100,000.
func (j *Journal) Log(ctx context.Context, runID, stage string, after int64, limit int) (_ []journal.Line, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the log of run %q: %w", runID, err)
		}
	}()
	if limit <= 0 || limit > maxLogRead {
		limit = maxLogRead
	}
	number, err := j.number(ctx, runID)
	if err != nil {
		return nil, err
	}
	rows, err := j.read.QueryContext(ctx, `SELECT codec, data FROM log_chunks WHERE run = ?1 AND last > ?2 AND (?3 = '' OR stage = ?3) ORDER BY last`, number, after, stage)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var lines []journal.Line
	for len(lines) < limit && rows.Next() {
		var codec int
		var data []byte
		if err := rows.Scan(&codec, &data); err != nil {
			return nil, err
		}
		chunk, err := decodeChunk(codec, data)
		if err != nil {
			return nil, err
		}
		for _, line := range chunk {
			if line.Seq > after && len(lines) < limit {
				lines = append(lines, line)
			}
		}
	}
	return lines, rows.Err()
}
