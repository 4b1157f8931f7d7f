package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// imageUser is the user of an image that names none, as in distroless images.
const imageUser = 65532

// containment is what Contain needs to turn a process into a container's.
type containment struct {
	// Root is an empty folder, which is to become the container's "/". Program appears there under its base name.
	Root, Program string
	Args, Env     []string
	Hostname      string
	// Mounts has what appears in the container, read-only, by its path there.
	Mounts   map[string]string
	UID, GID int
	// ReadOnly makes "/" read-only, NoNewPrivileges is that of prctl(2), DropAll takes all capabilities away.
	ReadOnly, NoNewPrivileges, DropAll bool
}

// start starts the container's program in the Pod's network.
func (p *pod) start(ctx context.Context) (*localcluster.Process, error) {
	if err := supported(p.object); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join("/run/netns", p.network)); err != nil {
		if err := plug(ctx, p.network, p.address); err != nil {
			return nil, err
		}
	}
	program, err := p.program(p.spec.Image)
	if err != nil {
		return nil, err
	}
	c := containment{
		Root: filepath.Join(p.dir, "root"), Program: program, Args: p.spec.Args, Hostname: p.object.Name, Mounts: map[string]string{},
		UID: imageUser, GID: imageUser,
	}
	if c.Env, err = p.environment(); err != nil {
		return nil, err
	}
	for _, mount := range p.spec.VolumeMounts {
		if c.Mounts[mount.MountPath], err = p.writeVolume(ctx, mount); err != nil {
			return nil, fmt.Errorf("volume %s: %w", mount.Name, err)
		}
	}
	if asked := p.object.Spec.SecurityContext; asked != nil {
		c.UID, c.GID = int(value(asked.RunAsUser, imageUser)), int(value(asked.RunAsGroup, imageUser))
	}
	if asked := p.spec.SecurityContext; asked != nil {
		c.ReadOnly = value(asked.ReadOnlyRootFilesystem, false)
		c.NoNewPrivileges = !value(asked.AllowPrivilegeEscalation, true)
		c.DropAll = asked.Capabilities != nil && slices.Contains(asked.Capabilities.Drop, "ALL")
	}
	if err := os.MkdirAll(c.Root, 0o755); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Name: p.object.Name,
		// ip makes a mount namespace, too, and becomes this program, which becomes the container's.
		Path: "ip",
		Args: []string{"netns", "exec", p.network, self},
		Env:  []string{containmentEnv + "=" + string(content)},
		Log:  filepath.Join(p.logs, fmt.Sprintf("%s_%s_%d.log", p.object.Namespace, p.object.Name, p.status.RestartCount)),
	})
}

func value[T any](set *T, otherwise T) T {
	if set != nil {
		return *set
	}
	return otherwise
}

// environment is what the program sees.
func (p *pod) environment() ([]string, error) {
	environment := []string{"HOSTNAME=" + p.object.Name, "KUBERNETES_SERVICE_HOST=" + apiServer, "KUBERNETES_SERVICE_PORT=443"}
	for _, variable := range p.spec.Env {
		content := variable.Value
		if from := variable.ValueFrom; from != nil {
			if from.ResourceFieldRef == nil || from.ResourceFieldRef.Resource != "limits.memory" {
				return nil, fmt.Errorf("environment variable %s: only resourceFieldRef limits.memory is supported here", variable.Name)
			}
			content = fmt.Sprint(p.spec.Resources.Limits.Memory().Value())
		}
		environment = append(environment, variable.Name+"="+content)
	}
	return environment, nil
}

// writeVolume makes the files of a volume, as its sources are now, and returns their folder.
func (p *pod) writeVolume(ctx context.Context, mount corev1.VolumeMount) (string, error) {
	if mount.SubPath != "" || mount.SubPathExpr != "" {
		return "", errors.New("subPath is not supported here")
	}
	i := slices.IndexFunc(p.object.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
	files, err := p.files(ctx, &p.object.Spec.Volumes[i])
	if err != nil {
		return "", err
	}
	dir := filepath.Join(p.dir, "volumes", mount.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (p *pod) files(ctx context.Context, volume *corev1.Volume) (map[string][]byte, error) {
	core := p.clients.CoreV1()
	if volume.Secret != nil && len(volume.Secret.Items) == 0 {
		secret, err := core.Secrets(p.object.Namespace).Get(ctx, volume.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return secret.Data, nil
	}
	if volume.Projected == nil {
		return nil, errors.New("volumes of this kind are not supported here")
	}
	files := map[string][]byte{}
	for _, source := range volume.Projected.Sources {
		switch {
		case source.ServiceAccountToken != nil:
			asked := source.ServiceAccountToken
			request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				ExpirationSeconds: asked.ExpirationSeconds,
				BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.object.Name, UID: p.object.UID},
			}}
			made, err := core.ServiceAccounts(p.object.Namespace).CreateToken(ctx, p.object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
			if err != nil {
				return nil, err
			}
			files[asked.Path] = []byte(made.Status.Token)
		case source.ConfigMap != nil:
			object, err := core.ConfigMaps(p.object.Namespace).Get(ctx, source.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			for _, item := range source.ConfigMap.Items {
				files[item.Path] = []byte(object.Data[item.Key])
			}
		case source.DownwardAPI != nil && len(source.DownwardAPI.Items) == 1 && source.DownwardAPI.Items[0].FieldRef.FieldPath == "metadata.namespace":
			files[source.DownwardAPI.Items[0].Path] = []byte(p.object.Namespace)
		default:
			return nil, errors.New("projected sources of this kind are not supported here")
		}
	}
	return files, nil
}
