package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/routesteward/routesteward/policy"
)

// AIBrix's names.
const (
	// modelLabel is a label, or an annotation where the name is no label's value, of what serves a model.
	modelLabel = "model.aibrix.ai/name"
	// modelHeader is the header that the gateway plugin sets from the request's body, and routes match.
	modelHeader = "model"
	// routerSuffix makes the name of the route under which the plugin looks for a model.
	routerSuffix = "-router"

	pluginName      = "aibrix-gateway-plugins"
	pluginContainer = "gateway-plugin"
	componentLabel  = "app.kubernetes.io/component"
	pluginComponent = "aibrix-gateway-plugin"

	algorithmVariable = "ROUTING_ALGORITHM"
	cacheVariable     = "AIBRIX_HTTPROUTE_CACHE_TTL"
	cacheDefault      = "30s"
)

// IsPlugin reports whether a Deployment is AIBrix's gateway plugin: by the name that its manifests give it, or by the
// label of its chart.
func IsPlugin(deployment *appsv1.Deployment) bool {
	return deployment.Name == pluginName || deployment.Labels[componentLabel] == pluginComponent
}

// changesRouting reports whether an environment variable of the plugin changes where a request goes.
func changesRouting(name string) bool {
	return name == algorithmVariable || name == cacheVariable ||
		slices.ContainsFunc([]string{"AIBRIX_ROUTING_", "AIBRIX_ROUTER_", "AIBRIX_PREFIX_CACHE_", "AIBRIX_LOAD_BALANCE_"},
			func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// PluginConfigMaps are the ConfigMaps of its namespace from which a gateway plugin takes variables that change routing.
func PluginConfigMaps(deployment *appsv1.Deployment) []string {
	names := map[string]bool{}
	container := containerOf(deployment)
	if container == nil {
		return nil
	}
	for _, from := range container.EnvFrom {
		if from.ConfigMapRef != nil {
			names[from.ConfigMapRef.Name] = true
		}
	}
	for _, env := range container.Env {
		if changesRouting(env.Name) && env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
			names[env.ValueFrom.ConfigMapKeyRef.Name] = true
		}
	}
	return sortedKeys(names)
}

func containerOf(deployment *appsv1.Deployment) *corev1.Container {
	containers := deployment.Spec.Template.Spec.Containers
	for i := range containers {
		if containers[i].Name == pluginContainer {
			return &containers[i]
		}
	}
	if len(containers) == 0 {
		return nil
	}
	return &containers[0]
}

// plugin reports the gateway plugin of the system namespace, or nil where there is none or it is not known.
func (a *auditor) plugin() *Plugin {
	deployment := first(a.cluster.Deployments, func(d *appsv1.Deployment) bool { return d.Namespace == a.system() })
	if deployment == nil {
		return nil
	}
	plugin := &Plugin{Ref: Ref{Group: appsv1.GroupName, Kind: "Deployment", Namespace: deployment.Namespace, Name: deployment.Name}, Variables: []Variable{}}
	variables := map[string]Variable{
		algorithmVariable: {Name: algorithmVariable, Known: true, Source: "default"},
		cacheVariable:     {Name: cacheVariable, Known: true, Source: "default", Value: cacheDefault},
	}
	if container := containerOf(deployment); container != nil {
		plugin.Container = container.Name
		a.fromSources(deployment.Namespace, container, variables)
		for _, env := range container.Env {
			if changesRouting(env.Name) {
				variables[env.Name] = a.variable(deployment.Namespace, env)
			}
		}
	}
	for _, name := range sortedKeys(variables) {
		v := variables[name]
		v.Meaning = meaning(v)
		plugin.Variables = append(plugin.Variables, v)
	}
	plugin.Algorithm, plugin.AlgorithmKnown = variables[algorithmVariable].Value, variables[algorithmVariable].Known
	return plugin
}

// fromSources reads envFrom; of two sources with the same key the later one counts (core/v1 Container.EnvFrom).
func (a *auditor) fromSources(namespace string, container *corev1.Container, variables map[string]Variable) {
	unknown := func(source string) {
		for _, name := range []string{algorithmVariable, cacheVariable} {
			variables[name] = Variable{Name: name, Source: source}
		}
	}
	for _, from := range container.EnvFrom {
		switch {
		case from.SecretRef != nil:
			unknown(fmt.Sprintf("perhaps envFrom Secret %s/%s, which is not read", namespace, from.SecretRef.Name))
		case from.ConfigMapRef != nil:
			source := fmt.Sprintf("envFrom ConfigMap %s/%s", namespace, from.ConfigMapRef.Name)
			data, known := a.configMap(namespace, from.ConfigMapRef.Name)
			if !known {
				unknown("perhaps " + source + ", which could not be read")
				continue
			}
			for key, value := range data {
				if name := from.Prefix + key; changesRouting(name) {
					variables[name] = Variable{Name: name, Value: value, Known: true, Set: true, Source: source}
				}
			}
		}
	}
}

func (a *auditor) variable(namespace string, env corev1.EnvVar) Variable {
	v := Variable{Name: env.Name, Set: true, Source: "env"}
	from := env.ValueFrom
	switch {
	case from == nil:
		v.Value, v.Known = env.Value, true
	case from.ConfigMapKeyRef != nil:
		v.Source = fmt.Sprintf("configMapKeyRef %s/%s %s", namespace, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
		data, known := a.configMap(namespace, from.ConfigMapKeyRef.Name)
		v.Value = data[from.ConfigMapKeyRef.Key]
		_, there := data[from.ConfigMapKeyRef.Key]
		// A key under another name than the variable's is left out when the ConfigMap is read.
		v.Known = known && (there || changesRouting(from.ConfigMapKeyRef.Key))
		v.Set = !v.Known || there
	case from.SecretKeyRef != nil:
		v.Source = fmt.Sprintf("secretKeyRef %s/%s %s, which is not read", namespace, from.SecretKeyRef.Name, from.SecretKeyRef.Key)
	case from.FieldRef != nil:
		v.Source = "fieldRef " + from.FieldRef.FieldPath
	default:
		v.Source = "valueFrom"
	}
	return v
}

func (a *auditor) configMap(namespace, name string) (data map[string]string, known bool) {
	found := first(a.cluster.ConfigMaps, func(m *corev1.ConfigMap) bool { return m.Namespace == namespace && m.Name == name })
	if found == nil {
		return nil, a.cluster.notRead("configmaps", namespace, name) == ""
	}
	return found.Data, true
}

// meaning says what a variable does.
func meaning(v Variable) string {
	switch {
	case v.Name == algorithmVariable && !v.Known:
		return "not known: whether requests that name no routing algorithm go through their HTTPRoute or bypass it"
	case v.Name == algorithmVariable && v.Value == "":
		return "requests that name no routing algorithm go through their HTTPRoute, and get a 503 where its status is not good"
	case v.Name == algorithmVariable:
		return fmt.Sprintf("requests that name no routing algorithm are routed by %q, past the HTTPRoute and its status", v.Value)
	case v.Name == cacheVariable:
		return "how long the plugin believes a good HTTPRoute status: a route that breaks is noticed that much later"
	}
	return "tunes a routing algorithm"
}

// first is the first element that a condition holds for, or the zero value.
func first[T any](all []T, condition func(T) bool) T {
	if i := slices.IndexFunc(all, condition); i >= 0 {
		return all[i]
	}
	var none T
	return none
}

// dependence explains which requests for a model go through its HTTPRoute. The plugin takes the algorithm from the
// request's header routing-strategy, else from the model's profile (annotation model.aibrix.ai/config of its Pods, which is
// not read here), else from ROUTING_ALGORITHM.
func (p *Plugin) dependence() (depends, affected string) {
	switch {
	case p == nil, !p.AlgorithmKnown:
		return "unknown", "not known, as AIBrix's gateway plugin is not: requests with the header routing-strategy bypass the HTTPRoute"
	case p.Algorithm == "":
		return "all", "everybody who sends no header routing-strategy: these requests go through the HTTPRoute; those with the header bypass it and may still work"
	default:
		return "named", fmt.Sprintf("nobody at first sight: %s=%s makes every request bypass the HTTPRoute; the fault shows when it is taken away", algorithmVariable, p.Algorithm)
	}
}

// modelOf is the model that AIBrix serves by a route, or "": the one that it matches in the header, else its label or annotation.
func modelOf(route policy.Route, matched string) string {
	return cmp.Or(matched, route.Meta.Labels[modelLabel], route.Meta.Annotations[modelLabel])
}
