package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
)

// proxy stands in front of the API server for one subject and counts its
// requests. It speaks plain HTTP on loopback and adds the credentials.
type proxy struct {
	url    string
	server *http.Server
	done   chan struct{}

	mu     sync.Mutex
	counts map[string]int // by verb, "watch" and "lease" apart
	events int            // requests that create or change Events
}

func newProxy(ctx context.Context, config *rest.Config) (*proxy, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{url: "http://" + listener.Addr().String(), counts: map[string]int{}, done: make(chan struct{})}
	forward := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	p.server = &http.Server{ReadHeaderTimeout: time.Minute, Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.count(r)
		forward.ServeHTTP(w, r)
	})}
	go func() {
		defer close(p.done)
		_ = p.server.Serve(listener) // ends with close
	}()
	return p, nil
}

func (p *proxy) close() error {
	err := p.server.Close()
	<-p.done
	return err
}

func (p *proxy) count(r *http.Request) {
	kind := strings.ToLower(r.Method)
	switch {
	case r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1":
		kind = "watch"
	case strings.Contains(r.URL.Path, "/leases"):
		kind = "lease"
	}
	event := r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/events")
	p.mu.Lock()
	defer p.mu.Unlock()
	if event {
		p.events++
		return
	}
	p.counts[kind]++
}

// requests are what was asked of the API server, Events apart.
type requests struct {
	Counts map[string]int `json:"counts"`
	Events int            `json:"events"`
}

func (r requests) total() int {
	total := r.Events
	for _, n := range r.Counts {
		total += n
	}
	return total
}

func (r requests) minus(before requests) requests {
	left := requests{Counts: map[string]int{}, Events: r.Events - before.Events}
	for kind, n := range r.Counts {
		if n -= before.Counts[kind]; n != 0 {
			left.Counts[kind] = n
		}
	}
	return left
}

func (r requests) String() string {
	encoded, err := json.Marshal(r.Counts)
	if err != nil {
		return err.Error()
	}
	text := strings.NewReplacer(`"`, "", "{", "", "}", "", ",", ", ", ":", " ").Replace(string(encoded))
	if r.Events > 0 {
		text += fmt.Sprintf(", events %d", r.Events)
	}
	return text
}

func (p *proxy) requests() requests {
	p.mu.Lock()
	defer p.mu.Unlock()
	return requests{Counts: maps.Clone(p.counts), Events: p.events}
}

// config lets a client of this process go through the proxy.
func (p *proxy) config() *rest.Config { return &rest.Config{Host: p.url} }

// kubeconfig writes a file that lets another process go through the proxy, with
// namespace as its own.
func (p *proxy) kubeconfig(path, namespace string) error {
	encoded, err := json.Marshal(clientcmdapi.Config{Kind: "Config", APIVersion: "v1", CurrentContext: "bench",
		Clusters:  []clientcmdapi.NamedCluster{{Name: "bench", Cluster: clientcmdapi.Cluster{Server: p.url}}},
		AuthInfos: []clientcmdapi.NamedAuthInfo{{Name: "bench"}},
		Contexts:  []clientcmdapi.NamedContext{{Name: "bench", Context: clientcmdapi.Context{Cluster: "bench", AuthInfo: "bench", Namespace: namespace}}}})
	if err != nil {
		return err
	}
	return os.WriteFile(path, encoded, 0o600)
}
