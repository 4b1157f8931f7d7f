package page

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/audittest"
	"github.com/routesteward/routesteward/policy/audit/html"
)

func pageOf(t *testing.T, report audit.Report) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.html")
	var text bytes.Buffer
	require.NoError(t, html.Write(&text, report))
	require.NoError(t, os.WriteFile(path, text.Bytes(), 0o600))
	return path
}

// What a report holds was written by anybody who may create a route.
func TestTextsOfTheReportAreNoScripts(t *testing.T) {
	b := openTab(t)
	b.open(pageOf(t, audittest.Attack(t)), "", 1400, 900)
	b.click("#findings .row")
	require.Contains(t, b.eval(`document.getElementById("details").textContent`), audittest.Markup)
	require.Equal(t, "Route audit of aibrix-system", b.eval("document.title"))
	require.Equal(t, float64(0), b.eval(`document.querySelectorAll("img").length`))
	b.requireNoComplaints()
}

func TestPage(t *testing.T) {
	report := audittest.Report(t, 24)
	b := openTab(t)
	path := pageOf(t, report)
	b.open(path, "theme=light", 1680, 1050)
	b.screenshot("small-light")
	require.Equal(t, fmt.Sprintf("%d of %d routes", len(report.Routes), len(report.Routes)), b.eval(`document.getElementById("count").textContent`))
	require.Equal(t, float64(len(report.Routes)), b.eval(`document.querySelectorAll("#routes .row").length`))
	require.Positive(t, b.eval(`document.querySelectorAll("#edges path.broken.refers").length`))
	require.Positive(t, b.eval(`document.querySelectorAll("#edges path.broken.attaches").length`))
	require.Contains(t, b.eval(`getComputedStyle(document.querySelector("#edges path.broken")).stroke`), "rgb(192, 32, 43)", "broken edges are red")

	// The gateway has taken this route, and may not use its backend: only that line is broken.
	b.click(`#routes .row[data-key*="deepseek-2-router"]`)
	require.Equal(t, []any{"ok attaches lit", "ok attaches lit", "broken refers lit"}, b.eval(`[...document.querySelectorAll("#edges path.lit")].map(p => p.getAttribute("class")).sort((x, y) => x.includes("refers") - y.includes("refers"))`))
	b.press("Escape")

	// The search, by the keyboard.
	b.press("/")
	require.Equal(t, "search", b.eval("document.activeElement.id"))
	b.write("qwen-1")
	b.wait(`document.getElementById("count").textContent.startsWith("3 of")`)
	require.Equal(t, []any{"qwen-1-router", "qwen-13-router", "qwen-17-router"}, b.eval(`[...document.querySelectorAll("#routes .row .name")].map(n => n.textContent).sort()`))
	require.Equal(t, float64(3), b.eval(`document.querySelectorAll("#backends .row[data-key*=Service]").length`), "only what the routes refer to is left")
	require.Contains(t, b.eval("location.hash"), "q=qwen-1", "a view can be linked to")
	b.screenshot("small-search")
	b.press("Escape")
	b.wait(`document.getElementById("count").textContent.startsWith("24 of")`)

	// States are clicked away and back.
	healthy := 0
	for _, route := range report.Routes {
		if route.State == audit.StateOK {
			healthy++
		}
	}
	require.Positive(t, healthy)
	b.click(`#states [data-state=ok]`)
	b.wait(fmt.Sprintf(`document.getElementById("count").textContent.startsWith("%d of")`, len(report.Routes)-healthy))
	require.Equal(t, float64(0), b.eval(`document.querySelectorAll("#routes .row .dot.ok").length`))
	b.click(`#reset`)
	b.wait(`document.getElementById("count").textContent.startsWith("24 of")`)

	// One check.
	b.eval(`(() => { const s = document.getElementById("check"); s.value = [...s.options].find(o => o.value === "reference-not-permitted" || o.value === "reference-without-consent").value; s.dispatchEvent(new Event("change")); })()`)
	b.wait(`Number(document.getElementById("count").textContent.split(" ")[0]) < 24`)
	require.Equal(t, float64(1), b.eval(`document.querySelectorAll("#findings details").length`))
	b.click(`#reset`)

	// A route's details, with its finding and the next command.
	b.click(`#routes .row[data-key*="deepseek-2-router"]`)
	details := b.eval(`document.getElementById("details").textContent`).(string)
	require.Contains(t, details, "HTTPRoute aibrix-system/deepseek-2-router")
	require.Contains(t, details, "ResolvedRefs=")
	require.Contains(t, details, "Next: ")
	require.NotEmpty(t, b.eval(`document.querySelector("#details .finding .command code").textContent`))
	require.Positive(t, b.eval(`document.querySelectorAll("#edges path.lit").length`), "its edges are lit")
	b.screenshot("small-details")
	// From there to its backend and back.
	b.click(`#details .part .link[type=button]:not(:first-of-type), #details .part:last-of-type .link`)
	require.Contains(t, b.eval(`document.querySelector("#details h2").textContent`), "/")

	// Arrows move, Enter opens, Escape closes.
	b.eval(`document.querySelector("#routes .row").focus()`)
	before := b.eval(`document.activeElement.dataset.key`)
	b.press("ArrowDown")
	after := b.eval(`document.activeElement.dataset.key`)
	require.NotEqual(t, before, after)
	b.press("Enter")
	b.wait(`document.getElementById("details").classList.contains("filled")`)
	b.press("Escape")
	b.wait(`!document.getElementById("details").classList.contains("filled")`)
	require.Equal(t, after, b.eval(`document.activeElement.dataset.key`), "the focus stays where it was")

	// A finding leads to its object.
	b.click("#findings .row")
	require.Equal(t, report.Findings[0].Object.String(), b.eval(`document.querySelector("#details h2").textContent`))
	require.Contains(t, b.eval(`document.querySelector("#details .finding.chosen").textContent`), report.Findings[0].Problem)

	b.open(path, "theme=dark", 1680, 1050)
	b.screenshot("small-dark")
	b.click("#theme")
	require.Equal(t, "light", b.eval("document.documentElement.dataset.theme"))
	b.open(path, "theme=dark", 420, 900)
	b.screenshot("small-narrow")
	require.Equal(t, true, b.eval("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off on a narrow screen")

	b.call("Emulation.setEmulatedMedia", map[string]any{"media": "print"}, nil)
	require.Equal(t, "none", b.eval(`getComputedStyle(document.getElementById("tools")).display`))
	require.Equal(t, "rgb(255, 255, 255)", b.eval(`getComputedStyle(document.body).backgroundColor`), "paper is white, whatever the theme")
	b.eval(`dispatchEvent(new Event("beforeprint"))`)
	require.Equal(t, float64(len(report.Findings)), b.eval(`[...document.querySelectorAll("#findings .paper")].filter(n => n.offsetParent).length`), "every finding is printed with what to do")
	b.call("Emulation.setEmulatedMedia", map[string]any{"media": ""}, nil)
	b.requireNoComplaints()
}

func TestPageOfALargeCluster(t *testing.T) {
	report := audittest.Report(t, 2000)
	require.Len(t, report.Routes, 2000)
	b := openTab(t)
	path := pageOf(t, report)
	b.open(path, "theme=light", 1680, 1050)
	b.screenshot("large-light")
	require.Less(t, b.eval(`document.querySelectorAll("*").length`), float64(20_000), "what nobody looks at is not drawn")
	require.Equal(t, "2,000 of 2,000 routes", b.eval(`document.getElementById("count").textContent`))

	// A namespace opens, and shows the broken ones first.
	b.click(`#routes [data-card="routes/aibrix-system"]`)
	b.wait(`document.querySelectorAll("#routes .row").length > 20`)
	require.Equal(t, true, b.eval(`document.querySelector("#routes .row .dot").classList.contains("broken")`))
	b.screenshot("large-open")
	b.click(`#routes .grow`)
	b.wait(`document.querySelectorAll("#routes .row").length > 200`)

	b.click("#search")
	b.write("llama-1204-router")
	b.wait(`document.getElementById("count").textContent.startsWith("1 of")`)
	b.screenshot("large-search")
	b.press("Escape")
	b.wait(`document.getElementById("count").textContent.startsWith("2,000 of")`)
	b.click(`#states [data-state=ok]`)
	b.wait(`!document.getElementById("count").textContent.startsWith("2,000 of")`)
	b.screenshot("large-broken")
	b.open(path, "theme=dark", 1680, 1050)
	b.screenshot("large-dark")
	b.requireNoComplaints()
}

func TestPageOfNothing(t *testing.T) {
	b := openTab(t)
	b.open(pageOf(t, audit.Report{SystemNamespace: "aibrix-system", Source: "an empty cluster"}), "", 1280, 800)
	require.Contains(t, b.eval("document.body.textContent"), "Nothing was found.")
	b.screenshot("empty")
	b.requireNoComplaints()
}
