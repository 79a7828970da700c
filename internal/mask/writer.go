package mask

import "io"

// settleAt bounds what a long near-match makes the writer hold beyond need.
const settleAt = 32 << 10

// writer holds back the bytes that may be part of a secret: those that the
// automaton's node stands for. Bytes before them are decided.
type writer struct {
	out   io.Writer
	nodes *automaton
	at    int32
	held  []byte
	spans []span // the masked stretches of held, in order, apart from each other
	// open is set when held continues a stretch whose Replacement is out.
	open  bool
	ready []byte // to be written
}

// span is a stretch of held bytes; to is exclusive.
type span struct{ from, to int }

func (w *writer) Write(p []byte) (int, error) {
	a := w.nodes
	for i := 0; i < len(p); i++ {
		if len(w.held) == 0 {
			// Most bytes begin nothing.
			start := i
			for i < len(p) && a.root[p[i]] == 0 {
				i++
			}
			if i > start {
				w.ready = append(w.ready, p[start:i]...)
				w.open = false
			}
			if i == len(p) {
				break
			}
		}
		w.held = append(w.held, p[i])
		w.at = a.next(w.at, p[i])
		if n := int(a.nodes[w.at].longest); n > 0 {
			w.mark(span{len(w.held) - n, len(w.held)})
		}
		if w.at == 0 || len(w.held) >= settleAt+int(a.nodes[w.at].depth) {
			w.settle(int(a.nodes[w.at].depth))
		}
	}
	w.settle(int(a.nodes[w.at].depth))
	return len(p), w.flush()
}

// mark adds a stretch that ends at the newest byte, and joins it with those it
// touches.
func (w *writer) mark(s span) {
	for n := len(w.spans); n > 0 && w.spans[n-1].to >= s.from; n-- {
		s.from = min(s.from, w.spans[n-1].from)
		w.spans = w.spans[:n-1]
	}
	w.spans = append(w.spans, s)
}

// settle decides all held bytes but the newest keep.
func (w *writer) settle(keep int) {
	end := len(w.held) - keep
	at, left := 0, w.spans[:0]
	for _, s := range w.spans {
		if s.from >= end {
			left = append(left, span{s.from - end, s.to - end})
			continue
		}
		if s.from > at {
			w.open = false
		}
		w.ready = append(w.ready, w.held[at:s.from]...)
		if !w.open {
			w.ready = append(w.ready, Replacement...)
		}
		at, w.open = min(s.to, end), true
		if s.to > end {
			left = append(left, span{0, s.to - end})
		}
	}
	if at < end {
		w.ready = append(w.ready, w.held[at:end]...)
		w.open = false
	}
	w.spans = left
	w.held = append(w.held[:0], w.held[end:]...)
}

func (w *writer) flush() error {
	if len(w.ready) == 0 {
		return nil
	}
	_, err := w.out.Write(w.ready)
	w.ready = w.ready[:0]
	return err
}

// Close passes on what is held back: the text ended, it is no secret.
func (w *writer) Close() error {
	w.settle(0)
	w.at = 0
	return w.flush()
}
