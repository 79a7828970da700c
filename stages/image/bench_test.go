package image

import (
	"fmt"
	"path/filepath"
	"testing"
)

func tree(n int) map[string]string {
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY main /bin/main\nCOPY files /files\n", "main": "0"}
	for i := range n {
		files[filepath.Join("files", fmt.Sprint(i%100), fmt.Sprint(i))] = fmt.Sprintf("content of file %d", i)
	}
	return files
}

// Each is a build with a push to a registry on loopback.
func BenchmarkNothingChanged(b *testing.B) {
	t := newBench(b)
	request := t.request(tree(100))
	t.build(request)
	for b.Loop() {
		t.build(request)
	}
}

func BenchmarkOneFileChanged(b *testing.B) {
	t := newBench(b)
	request := t.request(tree(100))
	t.build(request)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		writeFiles(b, request.Context, map[string]string{"main": fmt.Sprint(i + 1)})
		b.StartTimer()
		t.build(request)
	}
}

func BenchmarkCopy10000Files(b *testing.B) {
	t := newBench(b)
	request := t.request(tree(10000))
	for b.Loop() {
		b.StopTimer()
		t.builder = t.newBuilder(b.TempDir())
		b.StartTimer()
		t.build(request)
	}
}
