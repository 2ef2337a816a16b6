// Scaler asks an external scaler as KEDA does, by KEDA's own code. A question is an object of JSON on a line, and so is its answer;
// of a trigger of type external-push there is an answer whenever it says something.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
	v2 "k8s.io/api/autoscaling/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"podmeter/tests/kubernetes/keda/scalers"
)

// trigger is one of a ScaledObject.
type trigger struct {
	Namespace string            `json:"namespace"`
	Metadata  map[string]string `json:"metadata"`
	// What a TriggerAuthentication gives: caCert, tlsClientCert and tlsClientKey.
	Auth map[string]string `json:"auth"`
	Push bool              `json:"push"`
}

type answer struct {
	// The names and targets of the metrics, as the autoscaler gets them.
	Metrics map[string]string `json:"metrics,omitempty"`
	// What they are.
	Values map[string]string `json:"values,omitempty"`
	Active bool              `json:"active"`
	Error  string            `json:"error,omitempty"`
}

func (t *trigger) config() *scalersconfig.ScalerConfig {
	return &scalersconfig.ScalerConfig{
		ScalableObjectName:      "object",
		ScalableObjectNamespace: t.Namespace,
		ScalableObjectType:      "ScaledObject",
		TriggerMetadata:         t.Metadata,
		AuthParams:              t.Auth,
		MetricType:              v2.AverageValueMetricType,
		GlobalHTTPTimeout:       5 * time.Second,
	}
}

func (t *trigger) ask(ctx context.Context) (answer, error) {
	scaler, err := scalers.NewExternalScaler(t.config())
	if err != nil {
		return answer{}, err
	}
	defer scaler.Close(ctx)
	specs := scaler.GetMetricSpecForScaling(ctx)
	if len(specs) == 0 {
		return answer{}, errors.New("no metrics")
	}
	a := answer{Metrics: map[string]string{}, Values: map[string]string{}}
	for _, spec := range specs {
		name := spec.External.Metric.Name
		a.Metrics[name] = spec.External.Target.AverageValue.String()
		values, active, err := scaler.GetMetricsAndActivity(ctx, name)
		if err != nil {
			return a, err
		}
		a.Active = active
		for _, value := range values {
			a.Values[value.MetricName] = value.Value.String()
		}
	}
	return a, nil
}

func (t *trigger) follow(ctx context.Context, out *json.Encoder) error {
	scaler, err := scalers.NewExternalPushScaler(t.config())
	if err != nil {
		return err
	}
	active := make(chan bool)
	go scaler.Run(ctx, active)
	for is := range active {
		if err := out.Encode(answer{Active: is}); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	ctrl.SetLogger(logr.Discard())
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var t trigger
		if err := in.Decode(&t); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		if t.Push {
			log.Fatal(t.follow(context.Background(), out))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		a, err := t.ask(ctx)
		cancel()
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			log.Fatal(err)
		}
	}
}
