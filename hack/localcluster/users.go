package localcluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ConfigFor authenticates as a user with a client certificate. The user has the rights that RBAC
// gives to that name and those groups, so without a binding only those of every authenticated user.
func (c *Cluster) ConfigFor(user string, groups ...string) (*rest.Config, error) {
	certificate, key, err := c.authority.clientCertificate(user, groups)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.server,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.pem, CertData: certificate, KeyData: key},
	}, nil
}

// KubeconfigFor is ConfigFor as a file in Dir, for kubectl.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	config, err := c.ConfigFor(user, groups...)
	if err != nil {
		return "", err
	}
	return c.writeKubeconfig(user, config)
}

// ServiceAccountConfig authenticates as an existing service account, with a token from the
// TokenRequest API that outlives any use of this cluster (one year).
func (c *Cluster) ServiceAccountConfig(ctx context.Context, namespace, name string) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return nil, err
	}
	seconds := int64(certificateLifetime.Seconds())
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.server,
		BearerToken:     token.Status.Token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.pem},
	}, nil
}

// ServiceAccountKubeconfig is ServiceAccountConfig as a file in Dir.
func (c *Cluster) ServiceAccountKubeconfig(ctx context.Context, namespace, name string) (string, error) {
	config, err := c.ServiceAccountConfig(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	return c.writeKubeconfig(namespace+"-"+name, config)
}

// writeAdmissionConfiguration has the API server authenticate to every admission webhook as the user
// (apiserver.config.k8s.io/v1).
func (c *Cluster) writeAdmissionConfiguration(user string) (string, error) {
	config, err := c.ConfigFor(user)
	if err != nil {
		return "", err
	}
	webhooks := filepath.Join(c.Dir, "kubeconfigs", "webhooks")
	// The user's name is the host that he is for.
	if err := WriteKubeconfig(webhooks, "*", map[string]*rest.Config{"*": config}); err != nil {
		return "", err
	}
	content := "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"
	for _, plugin := range []string{"ValidatingAdmissionWebhook", "MutatingAdmissionWebhook"} {
		content += "- name: " + plugin + "\n  configuration:\n    apiVersion: apiserver.config.k8s.io/v1\n" +
			"    kind: WebhookAdmissionConfiguration\n    kubeConfigFile: " + webhooks + "\n"
	}
	return c.key("admission.yaml"), os.WriteFile(c.key("admission.yaml"), []byte(content), 0o600)
}

// writeKubeconfig writes a new file each time: one user may be asked for with different groups.
func (c *Cluster) writeKubeconfig(name string, config *rest.Config) (string, error) {
	fileName := strings.NewReplacer("/", "-", ":", "-").Replace(name)
	file, err := os.CreateTemp(filepath.Join(c.Dir, "kubeconfigs"), fileName+"-*")
	if err != nil {
		return "", err
	}
	file.Close()
	return file.Name(), WriteKubeconfig(file.Name(), name, map[string]*rest.Config{name: config})
}

// WriteKubeconfig writes a file with one context for each config. All must be of one cluster.
func WriteKubeconfig(path, current string, contexts map[string]*rest.Config) error {
	const cluster = "local"
	out := clientcmdapi.NewConfig()
	out.CurrentContext = current
	for name, config := range contexts {
		out.Clusters[cluster] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
		out.AuthInfos[name] = &clientcmdapi.AuthInfo{
			ClientCertificateData: config.CertData,
			ClientKeyData:         config.KeyData,
			Token:                 config.BearerToken,
		}
		out.Contexts[name] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: name}
	}
	return clientcmd.WriteToFile(*out, path)
}
