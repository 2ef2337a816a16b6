package main

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	metricsapi "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
)

// clients are those that the autoscaler's controller makes for itself.
type clients struct {
	resource metricsclient.MetricsV1beta1Interface
	series   external_metrics.ExternalMetricsClient
	together metrics.MetricsClient
}

func newClients(url string) (*clients, error) {
	// What the controller manager sends, and without a limit to how often.
	config := &rest.Config{Host: url, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf}}
	found, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	pods, err := metricsclient.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	series, err := external_metrics.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	custom := custom_metrics.NewForConfig(config, kinds(), custom_metrics.NewAvailableAPIsGetter(found))
	return &clients{pods, series, metrics.NewRESTMetricsClient(pods, custom, series)}, nil
}

// kinds are what an API server would say of objects that metrics are asked of.
func kinds() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion})
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	return mapper
}

// listing asks for all that is selected, or for one by its name.
type listing struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Labels    string `json:"labels"`
	Fields    string `json:"fields"`
}

func (l *listing) options() metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: l.Labels, FieldSelector: l.Fields}
}

// item is a pod, a node or a value.
type item struct {
	Namespace string  `json:"namespace"`
	Name      string  `json:"name"`
	Window    float64 `json:"window"`
	// By container; a node's, and a value, have none.
	Usage map[string]usage `json:"usage"`
}

// usage is in nanocores and bytes; a value is in parts of a thousand.
type usage struct {
	CPU    int64 `json:"cpu"`
	Memory int64 `json:"memory"`
	Value  int64 `json:"value"`
}

func usageOf(list corev1.ResourceList) usage {
	return usage{CPU: list.Cpu().ScaledValue(resource.Nano), Memory: list.Memory().Value()}
}

func (c *clients) pods(ctx context.Context, l *listing) ([]item, error) {
	client := c.resource.PodMetricses(l.Namespace)
	if l.Name != "" {
		pod, err := client.Get(ctx, l.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return []item{itemOfPod(pod)}, nil
	}
	list, err := client.List(ctx, l.options())
	if err != nil {
		return nil, err
	}
	items := []item{}
	for _, pod := range list.Items {
		items = append(items, itemOfPod(&pod))
	}
	return items, nil
}

func itemOfPod(pod *metricsapi.PodMetrics) item {
	used := map[string]usage{}
	for _, container := range pod.Containers {
		used[container.Name] = usageOf(container.Usage)
	}
	return item{pod.Namespace, pod.Name, pod.Window.Seconds(), used}
}

func (c *clients) nodes(ctx context.Context, l *listing) ([]item, error) {
	client := c.resource.NodeMetricses()
	if l.Name != "" {
		node, err := client.Get(ctx, l.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return []item{itemOfNode(node)}, nil
	}
	list, err := client.List(ctx, l.options())
	if err != nil {
		return nil, err
	}
	items := []item{}
	for _, node := range list.Items {
		items = append(items, itemOfNode(&node))
	}
	return items, nil
}

func itemOfNode(node *metricsapi.NodeMetrics) item {
	return item{"", node.Name, node.Window.Seconds(), map[string]usage{"": usageOf(node.Usage)}}
}

// external asks for a metric by a selector.
type external struct {
	Namespace string `json:"namespace"`
	Metric    string `json:"metric"`
	Labels    string `json:"labels"`
}

func (c *clients) external(e *external) ([]item, error) {
	selector, err := labels.Parse(e.Labels)
	if err != nil {
		return nil, err
	}
	list, err := c.series.NamespacedMetrics(e.Namespace).List(e.Metric, selector)
	if err != nil {
		return nil, err
	}
	items := []item{}
	for _, value := range list.Items {
		var window float64
		if value.WindowSeconds != nil {
			window = float64(*value.WindowSeconds)
		}
		items = append(items, item{"", value.MetricName, window, map[string]usage{"": {Value: value.Value.MilliValue()}}})
	}
	return items, nil
}
