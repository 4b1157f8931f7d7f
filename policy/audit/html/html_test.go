package html

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/audit/audittest"
)

func TestThePageNeedsNothingElse(t *testing.T) {
	var text bytes.Buffer
	require.NoError(t, Write(&text, audittest.Report(t, 10)))
	page := text.String()
	require.NotRegexp(t, regexp.MustCompile(`(?i)(src|href)\s*=\s*["']?(https?:|//)`), page)
	require.NotRegexp(t, regexp.MustCompile(`(?i)@import|url\(`), page)
	// The browser compares what it runs with these hashes: what is written must be what was hashed.
	require.Contains(t, page, "<style>"+style+"</style>")
	require.Contains(t, page, "<script>"+script+"</script>")

	var again bytes.Buffer
	require.NoError(t, Write(&again, audittest.Report(t, 10)))
	require.Equal(t, page, again.String(), "the same report makes the same page")
	require.Error(t, Write(failing{}, audittest.Report(t, 1)))
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// What a report holds was written by anybody who may create a route.
func TestTextsOfTheReportAreNoMarkup(t *testing.T) {
	var text bytes.Buffer
	require.NoError(t, Write(&text, audittest.Attack(t)))
	require.Equal(t, 2, strings.Count(text.String(), "</script>"))
	require.NotContains(t, text.String(), "<img")
}

func BenchmarkWrite(b *testing.B) {
	report := audittest.Report(b, 2000)
	for b.Loop() {
		if err := Write(io.Discard, report); err != nil {
			b.Fatal(err)
		}
	}
}
