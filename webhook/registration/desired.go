// Package registration keeps routesteward's own webhook configurations as its flags and certificates require.
package registration

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Options say what the webhook configurations should hold.
type Options struct {
	// Name of the ValidatingWebhookConfiguration and of the MutatingWebhookConfiguration.
	Name string
	// Service that the API server calls on port 443, unless URL is set.
	Service types.NamespacedName
	// URL that the API server calls instead of the Service, without an entry's path, such as https://127.0.0.1:9443.
	URL string
	// Injected says that cert-manager's cainjector writes the caBundles: those that exist stay as they are.
	Injected bool
	// Validating and Mutating are the webhooks, in order. Without Mutating entries a MutatingWebhookConfiguration that exists
	// is emptied.
	Validating, Mutating []Entry
	// InStep receives, in the elected replica, whether the configuration of a kind, ValidatingWebhookConfiguration or
	// MutatingWebhookConfiguration, is as it should be; one that does not exist and should is not, nor
	// is one whose caBundle nobody keeps. Nil: nothing is reported.
	InStep func(kind string, inStep bool)
}

// Entry is one webhook. Everything that Entry does not name is the same for all and restored when somebody changes it.
type Entry struct {
	// Name is the webhook's fully qualified name, such as routes.routesteward.dev.
	Name string
	// Path that the API server calls, such as /validate.
	Path            string
	Rules           []admissionv1.RuleWithOperations
	MatchConditions []admissionv1.MatchCondition
	// TimeoutSeconds is between 1 and 30; zero means 10.
	TimeoutSeconds int32
}

// DesiredValidating returns the webhooks of the ValidatingWebhookConfiguration, with the API's defaults written out so
// that they can be compared with what the API server stores. A write that routesteward cannot evaluate is refused.
func DesiredValidating(o Options, caBundle []byte) []admissionv1.ValidatingWebhook {
	var webhooks []admissionv1.ValidatingWebhook
	for _, e := range o.Validating {
		webhooks = append(webhooks, admissionv1.ValidatingWebhook{
			Name:                    e.Name,
			ClientConfig:            o.clientConfig(e.Path, caBundle),
			Rules:                   e.rules(),
			MatchConditions:         slices.Clone(e.MatchConditions),
			FailurePolicy:           new(admissionv1.Fail),
			MatchPolicy:             new(admissionv1.Equivalent),
			NamespaceSelector:       &metav1.LabelSelector{},
			ObjectSelector:          &metav1.LabelSelector{},
			SideEffects:             new(admissionv1.SideEffectClassNoneOnDryRun),
			TimeoutSeconds:          e.timeoutSeconds(),
			AdmissionReviewVersions: []string{"v1"},
		})
	}
	return webhooks
}

// DesiredMutating returns the webhooks of the MutatingWebhookConfiguration, with the API's defaults written out. They may
// be skipped, because the validating ones evaluate the final object.
func DesiredMutating(o Options, caBundle []byte) []admissionv1.MutatingWebhook {
	var webhooks []admissionv1.MutatingWebhook
	for _, e := range o.Mutating {
		webhooks = append(webhooks, admissionv1.MutatingWebhook{
			Name:                    e.Name,
			ClientConfig:            o.clientConfig(e.Path, caBundle),
			Rules:                   e.rules(),
			MatchConditions:         slices.Clone(e.MatchConditions),
			FailurePolicy:           new(admissionv1.Ignore),
			MatchPolicy:             new(admissionv1.Equivalent),
			NamespaceSelector:       &metav1.LabelSelector{},
			ObjectSelector:          &metav1.LabelSelector{},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			TimeoutSeconds:          e.timeoutSeconds(),
			AdmissionReviewVersions: []string{"v1"},
			ReinvocationPolicy:      new(admissionv1.IfNeededReinvocationPolicy),
		})
	}
	return webhooks
}

func (o Options) clientConfig(path string, caBundle []byte) admissionv1.WebhookClientConfig {
	if o.URL != "" {
		return admissionv1.WebhookClientConfig{URL: new(strings.TrimSuffix(o.URL, "/") + path), CABundle: caBundle}
	}
	return admissionv1.WebhookClientConfig{
		Service: &admissionv1.ServiceReference{
			Namespace: o.Service.Namespace,
			Name:      o.Service.Name,
			Path:      &path,
			Port:      new(int32(443)),
		},
		CABundle: caBundle,
	}
}

func (e Entry) rules() []admissionv1.RuleWithOperations {
	var rules []admissionv1.RuleWithOperations
	for _, rule := range e.Rules {
		// The client decodes the API server's answer into what it has sent.
		rule = *rule.DeepCopy()
		if rule.Scope == nil {
			rule.Scope = new(admissionv1.AllScopes)
		}
		rules = append(rules, rule)
	}
	return rules
}

func (e Entry) timeoutSeconds() *int32 {
	if e.TimeoutSeconds == 0 {
		return new(int32(10))
	}
	return &e.TimeoutSeconds
}
