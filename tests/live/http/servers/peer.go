// A server and a client of Go: `serve PORT FILE`, `fetch URL [METHOD PATH BYTES]...`, `load URL CONNECTIONS EACH`.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2], os.Args[3])
	case "fetch":
		fetch(os.Args[2], os.Args[3:])
	case "load":
		load(os.Args[2], number(os.Args[3]), number(os.Args[4]))
	}
}

func number(word string) int {
	value, err := strconv.Atoi(word)
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func serve(port, file string) {
	hello := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\n") }
	http.HandleFunc("/hello", hello)
	http.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		time.Sleep(20 * time.Millisecond)
		hello(w, r)
	})
	http.HandleFunc("/parts", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "6")
		w.(http.Flusher).Flush()
		time.Sleep(20 * time.Millisecond)
		hello(w, r)
	})
	http.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/none", status(http.StatusNoContent))
	http.HandleFunc("/cached", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.ServeFile(w, r, file)
	})
	http.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	http.HandleFunc("/lines", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		for range 20 {
			io.WriteString(w, "HTTP/1.1 500 Not a head\r\n\r\n")
			w.(http.Flusher).Flush()
		}
		w.Header().Set("X-Sum", "1")
	})
	http.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		bytes, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, bytes)
	})
	http.HandleFunc("/limited", status(http.StatusRequestEntityTooLarge))
	http.HandleFunc("/error", status(http.StatusInternalServerError))
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		fmt.Fprintln(w, "late")
	})
	go func() { check(http.ListenAndServe("127.0.0.1:"+port, nil)) }()
	check(http.ListenAndServe("[::1]:"+port, nil))
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// One after the other. Less than no bytes is a body of unknown length.
func fetch(url string, words []string) {
	for i := 0; i < len(words); i += 3 {
		var body io.Reader
		if bytes := number(words[i+2]); bytes > 0 {
			body = strings.NewReader(strings.Repeat("x", bytes))
		} else if bytes < 0 {
			body = io.LimitReader(strings.NewReader(strings.Repeat("x", -bytes)), int64(-bytes))
		}
		request, err := http.NewRequest(words[i], url+words[i+1], body)
		check(err)
		fmt.Println(do(request))
	}
}

func do(request *http.Request) int {
	response, err := http.DefaultClient.Do(request)
	check(err)
	_, err = io.Copy(io.Discard, response.Body)
	check(err)
	response.Body.Close()
	return response.StatusCode
}

func load(url string, connections, each int) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = connections
	var done atomic.Int64
	var group sync.WaitGroup
	for range connections {
		group.Add(1)
		go func() {
			defer group.Done()
			for range each {
				request, err := http.NewRequest("GET", url+"/hello", nil)
				check(err)
				if do(request) == http.StatusOK {
					done.Add(1)
				}
			}
		}()
	}
	group.Wait()
	fmt.Println(done.Load())
}
