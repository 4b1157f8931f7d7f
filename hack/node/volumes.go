package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// refreshInterval is how often volumes are made as their sources are; a kubelet takes up to about a minute.
const refreshInterval = 5 * time.Second

func (p *pod) refresh() {
	for pause(p.alive, refreshInterval) {
		// What cannot be read now stays as it was.
		_ = p.writeVolumes(p.alive)
	}
}

func (p *pod) volume(name string) string { return filepath.Join(p.dir, "volumes", name) }

// writeVolumes makes the files of all volumes.
func (p *pod) writeVolumes(ctx context.Context) error {
	for i := range p.object.Spec.Volumes {
		volume := &p.object.Spec.Volumes[i]
		dir := p.volume(volume.Name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		files, err := p.content(ctx, volume, dir)
		if err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
		for name, content := range files {
			if err := p.writeFile(filepath.Join(dir, filepath.FromSlash(name)), content); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeFile replaces a file at once, so that readers see the old or the new one.
func (p *pod) writeFile(path string, content []byte) error {
	if current, err := os.ReadFile(path); err == nil && bytes.Equal(current, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := filepath.Join(p.dir, "new")
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func (p *pod) content(ctx context.Context, volume *corev1.Volume, dir string) (map[string][]byte, error) {
	switch source := volume.VolumeSource; {
	case source.EmptyDir != nil:
		// Whoever runs the containers may write.
		return nil, os.Chmod(dir, 0o777)
	case source.Secret != nil:
		return p.secret(ctx, source.Secret.SecretName, source.Secret.Items, source.Secret.Optional)
	case source.ConfigMap != nil:
		return p.configMap(ctx, source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional)
	case source.Projected != nil:
		return p.projected(ctx, source.Projected, dir)
	}
	return nil, fmt.Errorf("volumes of this kind are not supported here")
}

func (p *pod) projected(ctx context.Context, source *corev1.ProjectedVolumeSource, dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, s := range source.Sources {
		var some map[string][]byte
		var err error
		switch {
		case s.ServiceAccountToken != nil:
			some, err = p.token(ctx, s.ServiceAccountToken, dir)
		case s.Secret != nil:
			some, err = p.secret(ctx, s.Secret.Name, s.Secret.Items, s.Secret.Optional)
		case s.ConfigMap != nil:
			some, err = p.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
		case s.DownwardAPI != nil:
			some = map[string][]byte{}
			for _, item := range s.DownwardAPI.Items {
				var value string
				if value, err = p.field(item.FieldRef); err != nil {
					break
				}
				some[item.Path] = []byte(value)
			}
		default:
			err = fmt.Errorf("projected sources of this kind are not supported here")
		}
		if err != nil {
			return nil, err
		}
		for name, content := range some {
			files[name] = content
		}
	}
	return files, nil
}

// token is that of the Pod's service account, bound to the Pod: renewed when a fifth of its life is left, as a kubelet does.
func (p *pod) token(ctx context.Context, source *corev1.ServiceAccountTokenProjection, dir string) (map[string][]byte, error) {
	if info, err := os.Stat(filepath.Join(dir, source.Path)); err == nil &&
		time.Since(info.ModTime()) < time.Duration(*source.ExpirationSeconds)*time.Second*4/5 {
		return nil, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.object.Name, UID: p.object.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	made, err := p.agent.clients.CoreV1().ServiceAccounts(p.object.Namespace).CreateToken(ctx, p.object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{source.Path: []byte(made.Status.Token)}, nil
}

func (p *pod) secret(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	secret, err := p.agent.clients.CoreV1().Secrets(p.object.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, unless(optional, err)
	}
	return pick(secret.Data, items), nil
}

func (p *pod) configMap(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	object, err := p.agent.clients.CoreV1().ConfigMaps(p.object.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, unless(optional, err)
	}
	data := map[string][]byte{}
	for key, value := range object.BinaryData {
		data[key] = value
	}
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	return pick(data, items), nil
}

func unless(optional *bool, err error) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func pick(data map[string][]byte, items []corev1.KeyToPath) map[string][]byte {
	if len(items) == 0 {
		return data
	}
	files := map[string][]byte{}
	for _, item := range items {
		if content, found := data[item.Key]; found {
			files[item.Path] = content
		}
	}
	return files
}

// field is a value of the downward API.
func (p *pod) field(ref *corev1.ObjectFieldSelector) (string, error) {
	if ref == nil {
		return "", fmt.Errorf("only fieldRef is supported here")
	}
	values := map[string]string{
		"metadata.name":           p.object.Name,
		"metadata.namespace":      p.object.Namespace,
		"metadata.uid":            string(p.object.UID),
		"spec.nodeName":           Name,
		"spec.serviceAccountName": p.object.Spec.ServiceAccountName,
		"status.podIP":            p.address,
		"status.hostIP":           Address,
	}
	if value, found := values[ref.FieldPath]; found {
		return value, nil
	}
	return "", fmt.Errorf("fieldRef %s is not supported here", ref.FieldPath)
}

// environment is what the container's program sees: the Services of its namespace first, as a kubelet has it, then its own.
func (c *container) environment(ctx context.Context) ([]string, error) {
	p := c.pod
	links := p.object.Spec.EnableServiceLinks == nil || *p.object.Spec.EnableServiceLinks
	services, err := p.agent.clients.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	environment := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + p.object.Name}
	for _, service := range services.Items {
		kubernetes := types.NamespacedName{Namespace: service.Namespace, Name: service.Name} == types.NamespacedName{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
		if service.Spec.ClusterIP != corev1.ClusterIPNone && (kubernetes || links && service.Namespace == p.object.Namespace) {
			environment = append(environment, link(&service)...)
		}
	}
	for _, variable := range c.spec.Env {
		value := variable.Value
		switch from := variable.ValueFrom; {
		case from == nil:
		case from.FieldRef != nil:
			value, err = p.field(from.FieldRef)
		case from.ResourceFieldRef != nil:
			value, err = c.resource(from.ResourceFieldRef)
		default:
			err = fmt.Errorf("only fieldRef and resourceFieldRef are supported here")
		}
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", variable.Name, err)
		}
		environment = append(environment, variable.Name+"="+value)
	}
	return environment, nil
}

func (c *container) resource(ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	from := map[string]corev1.ResourceList{"limits": c.spec.Resources.Limits, "requests": c.spec.Resources.Requests}[kind]
	quantity, found := from[corev1.ResourceName(name)]
	if !found || !(ref.Divisor.IsZero() || ref.Divisor.Value() == 1) {
		return "", fmt.Errorf("resourceFieldRef %s is not supported here", ref.Resource)
	}
	// Whole units, rounded up; for memory they are bytes.
	return fmt.Sprint(quantity.Value()), nil
}

// link has the variables with which Docker once linked containers.
func link(service *corev1.Service) []string {
	name := strings.ToUpper(strings.ReplaceAll(service.Name, "-", "_"))
	host := service.Spec.ClusterIP
	environment := []string{name + "_SERVICE_HOST=" + host}
	for i, port := range service.Spec.Ports {
		protocol := strings.ToLower(string(port.Protocol))
		url := fmt.Sprintf("%s://%s:%d", protocol, host, port.Port)
		if i == 0 {
			environment = append(environment, fmt.Sprintf("%s_SERVICE_PORT=%d", name, port.Port), name+"_PORT="+url)
		}
		if port.Name != "" {
			environment = append(environment, fmt.Sprintf("%s_SERVICE_PORT_%s=%d", name, strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_")), port.Port))
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, port.Port, strings.ToUpper(protocol))
		environment = append(environment, prefix+"="+url, prefix+"_PROTO="+protocol, fmt.Sprintf("%s_PORT=%d", prefix, port.Port), prefix+"_ADDR="+host)
	}
	return environment
}
