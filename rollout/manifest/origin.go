package manifest

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// annotationOrigin on an object that was read is where it stands. New takes it off.
const annotationOrigin = "tidegate.dev/origin"

// Origin is the file and line of an object that was read, "" when that is not known.
func Origin(u *unstructured.Unstructured) string { return u.GetAnnotations()[annotationOrigin] }

func setOrigin(u *unstructured.Unstructured, origin string) {
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationOrigin] = origin
	u.SetAnnotations(annotations)
}

// WithoutOrigin takes what reading added off objects, in place, and returns them.
func WithoutOrigin(objects ...*unstructured.Unstructured) []*unstructured.Unstructured {
	for _, u := range objects {
		annotations := u.GetAnnotations()
		if _, ok := annotations[annotationOrigin]; !ok {
			continue
		}
		delete(annotations, annotationOrigin)
		if len(annotations) == 0 {
			annotations = nil
		}
		u.SetAnnotations(annotations)
	}
	return objects
}

// originOf is where the order of an object is asked for, or where its document begins.
func originOf(file string, doc document) string {
	for _, name := range []string{AnnotationAfter, AnnotationWave} {
		at := bytes.Index(doc.text, []byte(name))
		if at < 0 {
			continue
		}
		line := doc.line + bytes.Count(doc.text[:at], []byte("\n"))
		if len(doc.text) > 0 && doc.text[0] == '\n' {
			line-- // the rest of the line with the dashes
		}
		return fmt.Sprintf("%s:%d:%d", file, line, at-bytes.LastIndexByte(doc.text[:at], '\n'))
	}
	return fmt.Sprintf("%s:%d", file, doc.line)
}
