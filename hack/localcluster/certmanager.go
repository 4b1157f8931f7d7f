package localcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// StartCertManager runs cert-manager's controllers and its cainjector, which hack/certmanager/build made, as the
// administrator. It needs CertManagerCRDs. The caller stops it; Stop of the cluster does not.
func (c *Cluster) StartCertManager(ctx context.Context) (*Process, error) {
	program := filepath.Join(c.root, "bin", "certmanager", "certmanager")
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("cert-manager is not built, run `make certmanager`: %w", err)
	}
	return StartProcess(ctx, ProcessOptions{
		Path: program,
		Args: []string{"--kubeconfig=" + c.Kubeconfig},
		Log:  filepath.Join(c.LogDir(), "certmanager.log"),
	})
}
