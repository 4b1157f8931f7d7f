package reference

import (
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/settings"
)

func rule(id string) Rule {
	return Rule{ID: id, Summary: "A <model> stays.", Rationale: "Because it must.", Remediation: "Put it back.", Good: "a: 1\n\nb: 2\n", Bad: "a: 2\n"}
}

func TestRulesText(t *testing.T) {
	require.Equal(t, "one\n    A <model> stays.\ntwo\n    A <model> stays.\n", RulesText([]Rule{rule("one"), rule("two")}))
}

func TestRuleText(t *testing.T) {
	require.Equal(t, `one
    A <model> stays.

Why
    Because it must.

What to do
    Put it back.

Good
    a: 1

    b: 2

Bad
    a: 2
`, rule("one").Text())
}

func TestRulesMarkdown(t *testing.T) {
	const fence = "```"
	require.Equal(t, `# Rules

<!-- generated from the code by `+"`go generate`"+`; change the rules instead -->

- [one](#one): A \<model> stays.

## one

A \<model> stays.

**Why:** Because it must.

**What to do:** Put it back.

Good:

`+fence+`yaml
a: 1

b: 2
`+fence+`

Bad:

`+fence+`yaml
a: 2
`+fence+`
`, RulesMarkdown([]Rule{rule("one")}))
}

func TestRulesAreThoseOfThePolicy(t *testing.T) {
	rules := Rules()
	require.Len(t, rules, len(policy.Rules()))
	for i, want := range policy.Rules() {
		require.Equal(t, want.ID, rules[i].ID)
		for _, text := range []string{rules[i].Summary, rules[i].Rationale, rules[i].Remediation, rules[i].Good, rules[i].Bad} {
			require.NotEmpty(t, text, want.ID)
		}
	}
}

func TestJSONKeepsAngleBrackets(t *testing.T) {
	text, err := JSON(map[string]string{"a": "<b>"})
	require.NoError(t, err)
	require.Equal(t, "{\n  \"a\": \"<b>\"\n}\n", text)
}

type mode string

func flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.SortFlags = false
	chosen := mode("on")
	settings.EnumVar(fs, &chosen, "mode", "how it is done: on, or off, or in some third way that takes more words than one line of text has room for", "on", "off")
	fs.StringP("file", "f", "", "`FILE` to read")
	fs.Int("count", 7, "how many")
	fs.Bool("yes", true, "do it")
	fs.Bool("no", false, "do not do it")
	fs.String("hidden", "", "not shown")
	_ = fs.MarkHidden("hidden")
	return fs
}

func TestFlagsText(t *testing.T) {
	require.Equal(t, `  --mode on|off
        how it is done: on, or off, or in some third way that takes more words
        than one line of text has room for (default on)
  -f, --file FILE
        FILE to read
  --count INT
        how many (default 7)
  --yes
        do it (default true)
  --no
        do not do it
`, FlagsText(flags()))
}

func TestFlagsMarkdown(t *testing.T) {
	require.Equal(t, "| Flag | Default | Meaning |\n|---|---|---|\n"+
		"| `--mode on\\|off` | `on` | How it is done: on, or off, or in some third way that takes more words than one line of text has room for |\n"+
		"| `--file FILE` |  | FILE to read |\n"+
		"| `--count INT` | `7` | How many |\n"+
		"| `--yes` | `true` | Do it |\n"+
		"| `--no` | `false` | Do not do it |\n", FlagsMarkdown(flags()))
}

func TestParagraphs(t *testing.T) {
	require.Equal(t, "a b\n\nc\n", Paragraphs("a\nb\n\nc"))
}
