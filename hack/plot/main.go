// Command plot draws what `go run ./hack/bench scale` and `burst` have written as CSV.
//
//	plot DIR    reads DIR/scale.csv and DIR/burst.csv, and writes DIR/*.svg
package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plot DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

// line is one of a chart, from a column.
type line struct{ name, column string }

// chart is one picture.
type chart struct {
	file, title, x, y string
	// source has the columns, of which across is the x axis; aim is a horizontal line, unless 0.
	source, across string
	lines          []line
	aim            float64
	aimName        string
}

var charts = []chart{
	{
		file: "memory.svg", title: "Memory of routewarden", x: "HTTPRoutes in the cluster", y: "MiB resident", source: "scale.csv", across: "routes",
		lines: []line{{"at most", "peak_mebibytes"}, {"at rest", "resting_mebibytes"}}, aim: 500, aimName: "aim: below 500 MiB",
	},
	{
		file: "start.svg", title: "From the start of the process", x: "HTTPRoutes in the cluster", y: "seconds", source: "scale.csv", across: "routes",
		lines: []line{{"until it has looked at everything", "settled_seconds"}, {"until it is ready", "ready_seconds"}}, aim: 15, aimName: "aim: ready within 15 s",
	},
	{
		file: "admission.svg", title: "Creating a judged route, in a large and a small cluster", x: "HTTPRoutes in the large cluster", y: "milliseconds", source: "scale.csv", across: "routes",
		lines: []line{{"p99 large", "judged_p99_large"}, {"p99 small", "judged_p99_small"}, {"p50 large", "judged_p50_large"}, {"p50 small", "judged_p50_small"}},
	},
	{
		file: "burst.svg", title: "Memory of routewarden in a burst", x: "seconds since the first create", y: "MiB resident", source: "burst.csv", across: "seconds",
		lines: []line{{"", "mebibytes"}},
	},
}

// Colours that people with any vision tell apart.
var colours = []color.Color{
	color.RGBA{R: 0xd5, G: 0x5e, A: 0xff}, color.RGBA{G: 0x72, B: 0xb2, A: 0xff},
	color.RGBA{R: 0xe6, G: 0x9f, A: 0xff}, color.RGBA{R: 0x56, G: 0xb4, B: 0xe9, A: 0xff},
}

func run(dir string) error {
	var errs []error
	for _, c := range charts {
		if err := c.draw(dir); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.file, err))
		}
	}
	return errors.Join(errs...)
}

func (c chart) draw(dir string) error {
	columns, err := read(filepath.Join(dir, c.source))
	if err != nil {
		return err
	}
	p := plot.New()
	p.BackgroundColor = color.White // readable on dark pages too
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.title, c.x, c.y
	p.Title.Padding, p.X.Padding = vg.Points(8), vg.Points(2)
	p.X.Tick.Marker, p.Y.Tick.Marker = thousands{}, thousands{}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding, p.Legend.YOffs, p.Legend.XOffs = vg.Points(3), -vg.Points(2), vg.Points(6)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)

	across, ok := columns[c.across]
	if !ok || len(across) == 0 {
		return fmt.Errorf("%s has no column %q with values", c.source, c.across)
	}
	highest := c.aim
	for i, l := range c.lines {
		values, ok := columns[l.column]
		if !ok {
			return fmt.Errorf("%s has no column %q", c.source, l.column)
		}
		points := make(plotter.XYs, len(values))
		for j := range values {
			points[j] = plotter.XY{X: across[j], Y: values[j]}
			highest = max(highest, values[j])
		}
		drawn, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		drawn.Color, drawn.Width = colours[i%len(colours)], vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = colours[i%len(colours)], draw.CircleGlyph{}, vg.Points(2.5)
		p.Add(drawn)
		if len(points) < 20 {
			p.Add(dots)
		}
		if l.name != "" {
			p.Legend.Add(l.name, drawn)
		}
	}
	if c.aim > 0 {
		aim, err := plotter.NewLine(plotter.XYs{{X: 0, Y: c.aim}, {X: slices.Max(across), Y: c.aim}})
		if err != nil {
			return err
		}
		aim.Color, aim.Dashes = color.Gray{0x60}, []vg.Length{vg.Points(4), vg.Points(3)}
		p.Add(aim)
		p.Legend.Add(c.aimName, aim)
	}
	p.X.Min, p.X.Max = 0, slices.Max(across)*1.08
	// Room for the legend.
	p.Y.Min, p.Y.Max = 0, highest*(1.15+0.1*float64(len(c.lines)))
	return p.Save(16*vg.Centimeter, 9*vg.Centimeter, filepath.Join(dir, c.file))
}

// thousands writes ticks as 30,000.
type thousands struct{}

// Ticks implements plot.Ticker.
func (thousands) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" && t.Value >= 1000 {
			n := int(t.Value)
			ticks[i].Label = fmt.Sprintf("%d,%03d", n/1000, n%1000)
		}
	}
	return ticks
}

// read returns the columns of a CSV file by the names in its first line.
func read(file string) (map[string][]float64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, err
	}
	columns := map[string][]float64{}
	for i, row := range rows[min(1, len(rows)):] {
		for j, text := range row {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, fmt.Errorf("%s, line %d: %w", filepath.Base(file), i+2, err)
			}
			columns[rows[0][j]] = append(columns[rows[0][j]], value)
		}
	}
	return columns, nil
}
