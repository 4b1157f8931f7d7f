package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGeneratedDocumentsAreCurrent(t *testing.T) {
	documents, err := generate("../..")
	require.NoError(t, err)
	require.Equal(t, 10, len(documents))
	for path, want := range documents {
		got, err := os.ReadFile(path)
		require.NoError(t, err, "run: go generate .")
		require.Equal(t, want, string(got), "%s is out of date; run: go generate .", path)
	}
}

func TestReplaceBetween(t *testing.T) {
	for name, test := range map[string]struct{ text, want, err string }{
		"empty":        {text: "a\n<b><e>\nc", want: "a\n<b>\nnew\n<e>\nc"},
		"filled":       {text: "a\n<b>\nold\n<e>\nc", want: "a\n<b>\nnew\n<e>\nc"},
		"no beginning": {text: "<e>", err: "want <b> and, after it, <e>, once each"},
		"no end":       {text: "<b>", err: "want <b> and, after it, <e>, once each"},
		"wrong order":  {text: "<e><b>", err: "want <b> and, after it, <e>, once each"},
		"twice":        {text: "<b><e><b><e>", err: "want <b> and, after it, <e>, once each"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := replaceBetween(test.text, "<b>", "<e>", "new\n")
			if test.err != "" {
				require.EqualError(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}
