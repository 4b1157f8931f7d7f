// Package page tests the page of an audit in a real browser.
package page

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// chromium is a headless Chromium, driven by its DevTools protocol over two pipes. All tests share one.
type chromium struct {
	in     *os.File
	closed chan struct{}

	mutex   sync.Mutex
	next    int
	answers map[int]chan message
	tabs    map[string]*tab
}

// tab is a test's own.
type tab struct {
	*chromium
	t       *testing.T
	session string
	// complaints are the page's errors, and everything that its content policy refused.
	complaints []string
}

type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

var shared *chromium

// TestMain starts Chromium. Where there is none, nothing is tested, but for CI, which installs one.
func TestMain(m *testing.M) {
	binary := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			binary = found
			break
		}
	}
	if binary == "" {
		fmt.Fprintln(os.Stderr, "SKIPPED, THE PAGE IS NOT TESTED: there is no Chromium; install the Debian package chromium")
		if os.Getenv("CI") != "" {
			os.Exit(1)
		}
		return
	}
	os.Exit(func() int {
		var log bytes.Buffer
		stop, err := start(binary, &log)
		if err != nil {
			fmt.Fprintln(os.Stderr, "starting Chromium:", err)
			return 1
		}
		code := m.Run()
		stop()
		if code != 0 {
			for line := range strings.Lines(log.String()) {
				if !strings.Contains(line, "dbus") { // it looks for a desktop that is not there
					fmt.Fprint(os.Stderr, "Chromium: ", line)
				}
			}
		}
		return code
	}())
}

func start(binary string, log *bytes.Buffer) (stop func(), err error) {
	toBrowser, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer toBrowser.Close()
	out, fromBrowser, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer fromBrowser.Close()
	// Its path is short, as Chromium makes a socket there.
	scratch, err := os.MkdirTemp("", "chromium-*")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
		"--user-data-dir="+filepath.Join(scratch, "profile"), "about:blank")
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch)
	cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	shared = &chromium{in: in, closed: make(chan struct{}), answers: map[int]chan message{}, tabs: map[string]*tab{}}
	go shared.read(out)
	return func() {
		_ = in.Close() // Chromium ends with its pipe, its children with their group
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		<-shared.closed
		_ = os.RemoveAll(scratch)
	}, nil
}

// openTab opens a tab that is closed with the test.
func openTab(t *testing.T) *tab {
	t.Helper()
	b := &tab{chromium: shared, t: t}
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.mutex.Lock()
	b.session = attached.SessionID
	b.tabs[b.session] = b
	b.mutex.Unlock()
	t.Cleanup(func() {
		b.session = "" // that of the browser
		b.call("Target.closeTarget", map[string]any{"targetId": target.TargetID}, nil)
	})
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

func (b *chromium) read(out *os.File) {
	defer close(b.closed)
	defer out.Close()
	r := bufio.NewReader(out)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mutex.Lock()
		switch {
		case m.ID != 0:
			if answer := b.answers[m.ID]; answer != nil {
				delete(b.answers, m.ID)
				answer <- m
			}
		case m.Method == "Runtime.exceptionThrown", m.Method == "Log.entryAdded",
			m.Method == "Network.requestWillBeSent" && !strings.Contains(string(m.Params), `"url":"file:`) && !strings.Contains(string(m.Params), `"url":"about:`):
			if tab := b.tabs[m.SessionID]; tab != nil {
				tab.complaints = append(tab.complaints, m.Method+" "+string(m.Params))
			}
		}
		b.mutex.Unlock()
	}
}

// call waits for a method's answer, which is read into result unless that is nil.
func (b *tab) call(method string, params any, result any) {
	b.t.Helper()
	raw, err := json.Marshal(params)
	require.NoError(b.t, err)
	if params == nil {
		raw = []byte("{}")
	}
	answer := make(chan message, 1)
	b.mutex.Lock()
	b.next++
	m := message{ID: b.next, SessionID: b.session, Method: method, Params: raw}
	b.answers[m.ID] = answer
	b.mutex.Unlock()
	text, err := json.Marshal(m)
	require.NoError(b.t, err)
	_, err = b.in.Write(append(text, 0))
	require.NoError(b.t, err)
	select {
	case got := <-answer:
		require.Nil(b.t, got.Error, "%s: %s", method, text)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(got.Result, result), method)
		}
	case <-b.closed:
		require.FailNow(b.t, "Chromium has ended", method)
	case <-time.After(time.Minute):
		require.FailNow(b.t, "Chromium does not answer", method)
	}
}

// eval is the JSON value of a JavaScript expression, or of the promise it gives.
func (b *tab) eval(expression string) any {
	b.t.Helper()
	var result struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true}, &result)
	require.Empty(b.t, string(result.ExceptionDetails), expression)
	return result.Result.Value
}

// wait evaluates until the expression is true.
func (b *tab) wait(expression string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return b.eval(expression) == true }, 30*time.Second, 20*time.Millisecond, expression)
}

// open shows a file in a window of a size; hash is the part of the address behind "#".
func (b *tab) open(path, hash string, width, height int) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	// Another hash alone would not load the page again.
	b.call("Page.navigate", map[string]any{"url": "about:blank"}, nil)
	b.call("Page.navigate", map[string]any{"url": "file://" + path + "#" + hash}, nil)
	b.wait(`document.documentElement?.dataset.ready === "true"`)
}

// click clicks with the mouse into the middle of the first element that a selector finds.
func (b *tab) click(selector string) {
	b.t.Helper()
	quoted, _ := json.Marshal(selector)
	at, ok := b.eval(fmt.Sprintf(`(() => { const e = document.querySelector(%s); if (!e) return null; e.scrollIntoView({block: "center"}); const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })()`, quoted)).([]any)
	require.True(b.t, ok, "nothing to click: %s", selector)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1}, nil)
	}
}

func (b *tab) press(key string) {
	b.t.Helper()
	text := ""
	if len(key) == 1 {
		text = key
	} else if key == "Enter" {
		text = "\r"
	}
	code := map[string]int{"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9}[key]
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code}, nil)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}, nil)
}

func (b *tab) write(text string) {
	b.t.Helper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// screenshot is saved in the folder that ROUTESTEWARD_SCREENSHOTS names, for people to look at; without, only taken.
func (b *tab) screenshot(name string) []byte {
	b.t.Helper()
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	image, err := base64.StdEncoding.DecodeString(shot.Data)
	require.NoError(b.t, err)
	if folder := os.Getenv("ROUTESTEWARD_SCREENSHOTS"); folder != "" {
		require.NoError(b.t, os.MkdirAll(folder, 0o755))
		require.NoError(b.t, os.WriteFile(filepath.Join(folder, name+".png"), image, 0o644))
	}
	return image
}

// requireNoComplaints fails where the page threw an error, broke its content policy or asked for anything but itself.
func (b *tab) requireNoComplaints() {
	b.t.Helper()
	b.mutex.Lock()
	defer b.mutex.Unlock()
	require.Empty(b.t, b.complaints)
}
