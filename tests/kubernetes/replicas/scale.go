package main

import (
	"context"
	"fmt"
	"time"
	"unsafe"

	autoscaling "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
)

// The controller manager's defaults: --horizontal-pod-autoscaler-cpu-initialization-period and …-initial-readiness-delay.
const (
	initialization = 5 * time.Minute
	readinessDelay = 30 * time.Second
)

// scale is what there is, and one metric of an autoscaler.
type scale struct {
	Namespace string                  `json:"namespace"`
	Selector  string                  `json:"selector"`
	Replicas  int32                   `json:"replicas"`
	Metric    *autoscaling.MetricSpec `json:"metric"`
	Tolerance tolerance               `json:"tolerance"`
	Pods      []*corev1.Pod           `json:"pods"`
}

type tolerance struct {
	Down float64 `json:"down"`
	Up   float64 `json:"up"`
}

// calculators makes the calculator's own; its fields are its package's, which fills them from the controller's flags.
func (t tolerance) calculators() (own podautoscaler.Tolerances) {
	var _ [unsafe.Sizeof(own)]byte = [unsafe.Sizeof(t)]byte{} // Or it has other fields, and this does not compile.
	*(*tolerance)(unsafe.Pointer(&own)) = t
	if own.String() != fmt.Sprintf("[down:%.1f%%, up:%.1f%%]", t.Down*100, t.Up*100) {
		panic("the calculator's tolerances are not what they were: " + own.String())
	}
	return own
}

// wanted is what the calculator wants, and what it says of the metric: a mean or a value in parts of a thousand, and for a utilization
// the percentage.
type wanted struct {
	Replicas    int32 `json:"replicas"`
	Usage       int64 `json:"usage"`
	Utilization int32 `json:"utilization"`
}

// scale asks the calculator as the controller does (computeReplicasForMetric).
func (c *clients) scale(ctx context.Context, s *scale) (*wanted, error) {
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, pod := range s.Pods {
		if err := pods.Add(pod); err != nil {
			return nil, err
		}
	}
	calculator := podautoscaler.NewReplicaCalculator(c.together, corelisters.NewPodLister(pods), initialization, readinessDelay)
	selector, err := labels.Parse(s.Selector)
	if err != nil {
		return nil, err
	}
	tolerances := s.Tolerance.calculators()
	var w wanted
	switch spec := s.Metric; spec.Type {
	case autoscaling.ResourceMetricSourceType:
		err = w.resource(ctx, calculator, s, spec.Resource.Name, spec.Resource.Target, "", selector)
	case autoscaling.ContainerResourceMetricSourceType:
		of := spec.ContainerResource
		err = w.resource(ctx, calculator, s, of.Name, of.Target, of.Container, selector)
	case autoscaling.PodsMetricSourceType:
		of := spec.Pods
		series, bad := metav1.LabelSelectorAsSelector(of.Metric.Selector)
		if bad != nil {
			return nil, bad
		}
		w.Replicas, w.Usage, _, err = calculator.GetMetricReplicas(
			s.Replicas, of.Target.AverageValue.MilliValue(), of.Metric.Name, tolerances, s.Namespace, selector, series)
	case autoscaling.ObjectMetricSourceType:
		of := spec.Object
		series, bad := metav1.LabelSelectorAsSelector(of.Metric.Selector)
		if bad != nil {
			return nil, bad
		}
		if of.Target.Type == autoscaling.ValueMetricType {
			w.Replicas, w.Usage, _, err = calculator.GetObjectMetricReplicas(
				s.Replicas, of.Target.Value.MilliValue(), of.Metric.Name, tolerances, s.Namespace, &of.DescribedObject, selector, series)
		} else {
			w.Replicas, w.Usage, _, err = calculator.GetObjectPerPodMetricReplicas(
				s.Replicas, of.Target.AverageValue.MilliValue(), of.Metric.Name, tolerances, s.Namespace, &of.DescribedObject, series)
		}
	case autoscaling.ExternalMetricSourceType:
		of := spec.External
		if of.Target.Type == autoscaling.ValueMetricType {
			w.Replicas, w.Usage, _, err = calculator.GetExternalMetricReplicas(
				s.Replicas, of.Target.Value.MilliValue(), of.Metric.Name, tolerances, s.Namespace, of.Metric.Selector, selector)
		} else {
			w.Replicas, w.Usage, _, err = calculator.GetExternalPerPodMetricReplicas(
				s.Replicas, of.Target.AverageValue.MilliValue(), of.Metric.Name, tolerances, s.Namespace, of.Metric.Selector)
		}
	default:
		err = fmt.Errorf("no metric is of type %q", spec.Type)
	}
	return &w, err
}

func (w *wanted) resource(
	ctx context.Context, calculator *podautoscaler.ReplicaCalculator, s *scale,
	name corev1.ResourceName, target autoscaling.MetricTarget, container string, selector labels.Selector,
) (err error) {
	tolerances := s.Tolerance.calculators()
	if target.Type == autoscaling.UtilizationMetricType {
		w.Replicas, w.Utilization, w.Usage, _, err = calculator.GetResourceReplicas(
			ctx, s.Replicas, *target.AverageUtilization, name, tolerances, s.Namespace, selector, container)
		return err
	}
	w.Replicas, w.Usage, _, err = calculator.GetRawResourceReplicas(
		ctx, s.Replicas, target.AverageValue.MilliValue(), name, tolerances, s.Namespace, selector, container)
	return err
}
