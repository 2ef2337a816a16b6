// Replicas says how many replicas Kubernetes' autoscaler wants: by its own calculator and its own clients, from what an adapter
// at a URL says, and from pods that the question has. A question is an object of JSON on a line, and so is its answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// question has one of these.
type question struct {
	Scale    *scale    `json:"scale"`
	Pods     *listing  `json:"pods"`
	Nodes    *listing  `json:"nodes"`
	External *external `json:"external"`
}

type answer struct {
	Replicas *wanted  `json:"replicas,omitempty"`
	Items    []item   `json:"items"`
	Error    *failure `json:"error,omitempty"`
}

// failure is an error as a client takes it.
type failure struct {
	Text     string              `json:"text"`
	Reason   metav1.StatusReason `json:"reason"`
	NotFound bool                `json:"not_found"`
}

func (c *clients) answer(ctx context.Context, q *question) answer {
	var a answer
	var err error
	switch {
	case q.Scale != nil:
		a.Replicas, err = c.scale(ctx, q.Scale)
	case q.Pods != nil:
		a.Items, err = c.pods(ctx, q.Pods)
	case q.Nodes != nil:
		a.Items, err = c.nodes(ctx, q.Nodes)
	case q.External != nil:
		a.Items, err = c.external(q.External)
	default:
		err = errors.New("a question about nothing")
	}
	if err != nil {
		reason := apierrors.ReasonForError(err)
		return answer{Error: &failure{Text: err.Error(), Reason: reason, NotFound: apierrors.IsNotFound(err)}}
	}
	return a
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: replicas URL")
	}
	clients, err := newClients(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var q question
		if err := in.Decode(&q); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		if err := out.Encode(clients.answer(context.Background(), &q)); err != nil {
			log.Fatal(err)
		}
	}
}
