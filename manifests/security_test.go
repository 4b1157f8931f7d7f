package manifests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSecurityPageNamesTestsThatExist: a threat whose test was renamed or deleted is a threat without one.
func TestSecurityPageNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("SECURITY.md")
	require.NoError(t, err)
	var sources strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		sources.Write(content)
		return err
	}))
	tests := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, tests)
	for _, test := range tests[1:] { // the first explains what such a name is
		require.True(t, strings.Contains(sources.String(), "func "+test[1]+"(t *testing.T)"), "no %s", test[1])
	}
	cases := regexp.MustCompile("`([a-z-]+/[a-z-]+)`").FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, cases)
	for _, c := range cases {
		if strings.HasPrefix(c[1], "policy/") {
			continue
		}
		require.FileExists(t, filepath.Join("..", "policy", "testdata", "cases", c[1], "want.yaml"))
	}
}
