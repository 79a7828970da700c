// Package attest makes what an image's index says about how the image came to
// be: SPDX lists of its packages and SLSA provenance, as in-toto statements in
// an attestation manifest of the form that BuildKit gives it. It is pure: equal
// input gives equal bytes.
package attest

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Names that in-toto, SPDX and SLSA define.
const (
	// StatementType is the `_type` of in-toto statements, version 1.
	StatementType = "https://in-toto.io/Statement/v1"
	// PredicateSPDX says that a predicate is an SPDX document.
	PredicateSPDX = "https://spdx.dev/Document"
	// PredicateProvenance says that a predicate is SLSA provenance, version 1.
	PredicateProvenance = "https://slsa.dev/provenance/v1"
	// PayloadType is the media type of a statement.
	PayloadType = "application/vnd.in-toto+json"
)

// Subject is what a statement is about.
type Subject struct {
	// Name is a package URL, or "_" for something without a name.
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Statement is an in-toto statement (https://github.com/in-toto/attestation,
// spec/v1). The protobuf types of that project are not used: their JSON differs
// from run to run on purpose, and a digest must not.
type Statement struct {
	Type          string          `json:"_type"`
	PredicateType string          `json:"predicateType"`
	Subject       []Subject       `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Unnamed is the name of a subject that has none.
const Unnamed = "_"

// NewStatement says something about the image with the digest, under each of
// its names.
func NewStatement(names []string, digest v1.Hash, predicateType string, predicate any) (Statement, error) {
	raw, err := json.Marshal(predicate)
	if err != nil {
		return Statement{}, fmt.Errorf("encode %s: %w", predicateType, err)
	}
	s := Statement{Type: StatementType, PredicateType: predicateType, Predicate: raw, Subject: []Subject{}}
	if len(names) == 0 {
		names = []string{Unnamed}
	}
	for _, name := range names {
		s.Subject = append(s.Subject, Subject{Name: name, Digest: map[string]string{digest.Algorithm: digest.Hex}})
	}
	return s, nil
}

// MaxStatement bounds a statement that is read, in bytes: BuildKit's bound.
const MaxStatement = 80 << 20

// ParseStatement reads a statement of version 0.1 or 1.
func ParseStatement(data []byte) (Statement, error) {
	var s Statement
	if len(data) > MaxStatement {
		return s, fmt.Errorf("statement is larger than %d bytes", MaxStatement)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read in-toto statement: %w", err)
	}
	if s.Type != StatementType && s.Type != "https://in-toto.io/Statement/v0.1" {
		return s, fmt.Errorf("not an in-toto statement: its _type is %q", short(s.Type))
	}
	return s, nil
}

// About tells whether the statement is about an image.
func (s Statement) About(digest v1.Hash) bool {
	for _, subject := range s.Subject {
		if subject.Digest[digest.Algorithm] == digest.Hex && digest.Hex != "" {
			return true
		}
	}
	return false
}

func short(text string) string {
	const most = 100
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
