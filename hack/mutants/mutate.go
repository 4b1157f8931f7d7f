package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/constant"
	"go/format"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// mutant is one change to the program.
type mutant struct {
	id int
	// file is its base name, in the function or variable that holds the change.
	file, in string
	line     int
	// from and to are the code before and after.
	from, to string
}

// key names a mutant by what it says and not by where it stands, so that explanations survive other edits.
func (m mutant) key() string { return fmt.Sprintf("%s %s: %s → %s", m.file, m.in, m.from, m.to) }

// runtimeSource is added to the package. The mutant in the environment is active; with ROUTEWARDEN_MUTANT=record every
// mutant whose code is reached is written to the file in ROUTEWARDEN_MUTANTS when the tests exit.
const runtimeSource = `package %s

import (
	mutantOS "os"
	mutantStrconv "strconv"
)

var mutantActive, mutantReached = func() (int, *mutantOS.File) {
	text := mutantOS.Getenv("ROUTEWARDEN_MUTANT")
	if text == "record" {
		file, err := mutantOS.Create(mutantOS.Getenv("ROUTEWARDEN_MUTANTS"))
		if err != nil {
			panic(err)
		}
		return -1, file
	}
	n, _ := mutantStrconv.Atoi(text)
	return n, nil
}()

var mutantSeen [%d]bool

func mutantIs(n int) bool {
	if mutantActive < 0 && !mutantSeen[n] {
		mutantSeen[n] = true
		_, _ = mutantReached.WriteString(mutantStrconv.Itoa(n) + "\n")
	}
	return mutantActive == n
}

func mutantAnd(n int, a bool, b func() bool) bool {
	switch {
	case mutantIs(n):
		return a || b()
	case mutantIs(n + 1):
		return b()
	case mutantIs(n + 2):
		return a
	}
	return a && b()
}

func mutantOr(n int, a bool, b func() bool) bool {
	switch {
	case mutantIs(n):
		return a && b()
	case mutantIs(n + 1):
		return b()
	case mutantIs(n + 2):
		return a
	}
	return a || b()
}

func mutantBool(n int, condition bool) bool {
	always, never := mutantIs(n), mutantIs(n+1)
	return (condition || always) && !never
}

func mutantZero[T any](n int, value T) T {
	if mutantIs(n) {
		return *new(T)
	}
	return value
}

func mutantString[T ~string](n int, value T) T {
	if mutantIs(n) {
		return "mutant" + value
	}
	return value
}

func mutantNumber[T ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](n int, value T) T {
	if mutantIs(n) {
		return value + 1
	}
	return value
}

func mutantSum[T ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](n int, a, b T) T {
	if mutantIs(n) {
		return a - b
	}
	return a + b
}

func mutantDifference[T ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](n int, a, b T) T {
	if mutantIs(n) {
		return a + b
	}
	return a - b
}
`

// edit replaces the bytes from start up to end. after says that it closes a node, so that it stands before what opens one.
type edit struct {
	start, end int
	text       string
}

// mutator rewrites one file so that it holds all its mutants at once, each behind its number: then one build serves them
// all, where the time goes into linking.
type mutator struct {
	fset    *token.FileSet
	info    *types.Info
	pkg     *types.Package
	src     []byte
	name    string
	imports map[string]string // local names by path
	in      string
	// results of the function that is being walked.
	results *types.Tuple

	next    int
	mutants []mutant
	opening []edit // outer ones first
	closing []edit // inner ones first
}

func (m *mutator) offset(pos token.Pos) int { return m.fset.Position(pos).Offset }

func (m *mutator) text(node ast.Node) string {
	return string(m.src[m.offset(node.Pos()):m.offset(node.End())])
}

// short is code on one line, cut to what a table can hold.
func short(code string) string {
	code = strings.Join(strings.Fields(code), " ")
	if runes := []rune(code); len(runes) > 100 {
		return string(runes[:99]) + "…"
	}
	return code
}

const operandLength = 45

func head(code string) string {
	runes := []rune(strings.Join(strings.Fields(code), " "))
	if len(runes) <= operandLength {
		return string(runes)
	}
	return string(runes[:operandLength]) + "…"
}

func tail(code string) string {
	runes := []rune(strings.Join(strings.Fields(code), " "))
	if len(runes) <= operandLength {
		return string(runes)
	}
	return "…" + string(runes[len(runes)-operandLength:])
}

// add makes mutants of a node, numbered from the returned one.
func (m *mutator) add(node ast.Node, to ...string) int {
	return m.addFrom(node, m.text(node), to...)
}

func (m *mutator) addFrom(node ast.Node, from string, to ...string) int {
	first := m.next
	for _, to := range to {
		m.mutants = append(m.mutants, mutant{
			id: m.next, file: m.name, in: m.in, line: m.fset.Position(node.Pos()).Line, from: short(from), to: short(to),
		})
		m.next++
	}
	return first
}

func (m *mutator) open(node ast.Node, text string) {
	m.opening = append(m.opening, edit{m.offset(node.Pos()), m.offset(node.Pos()), text})
}

func (m *mutator) close(node ast.Node, text string) {
	m.closing = append(m.closing, edit{m.offset(node.End()), m.offset(node.End()), text})
}

// wrap puts a node between two texts. The inner wraps must be made after the outer ones.
func (m *mutator) wrap(node ast.Node, before, after string, inside func()) {
	m.open(node, before)
	inside()
	m.close(node, after)
}

// typeName is how the file names a type; false where it cannot.
func (m *mutator) typeName(t types.Type) (string, bool) {
	known := true
	name := types.TypeString(t, func(p *types.Package) string {
		if p == m.pkg {
			return ""
		}
		local, ok := m.imports[p.Path()]
		known = known && ok
		return local
	})
	return name, known
}

func (m *mutator) file(file *ast.File) []byte {
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Body == nil {
				continue
			}
			m.in = d.Name.Name
			if d.Recv != nil {
				m.in = strings.TrimPrefix(m.text(d.Recv.List[0].Type), "*") + "." + m.in
			}
			m.results = m.info.Defs[d.Name].(*types.Func).Type().(*types.Signature).Results()
			m.block(d.Body.List)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if value, ok := spec.(*ast.ValueSpec); ok && d.Tok == token.VAR {
					m.in = value.Names[0].Name
					for _, expr := range value.Values {
						m.expr(expr)
					}
				}
			}
		}
	}
	edits := append(slices.Clone(m.closing), m.opening...)
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		out.Write(m.src[at:e.start])
		out.WriteString(e.text)
		at = e.end
	}
	out.Write(m.src[at:])
	if _, err := format.Source(out.Bytes()); err != nil {
		panic(fmt.Sprintf("%s: %v\n%s", m.name, err, out.Bytes()))
	}
	return out.Bytes()
}

func (m *mutator) block(list []ast.Stmt) {
	for _, stmt := range list {
		if !removable(stmt) {
			m.stmt(stmt)
			continue
		}
		n := m.add(stmt, "nothing")
		m.wrap(stmt, fmt.Sprintf("if !mutantIs(%d) { ", n), " }", func() { m.stmt(stmt) })
	}
}

func removable(stmt ast.Stmt) bool {
	switch s := stmt.(type) {
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		name, ok := call.Fun.(*ast.Ident)
		return !ok || name.Name != "panic"
	case *ast.AssignStmt:
		return s.Tok != token.DEFINE && !allBlank(s.Lhs)
	case *ast.IncDecStmt:
		return true
	case *ast.BranchStmt:
		return s.Label == nil && (s.Tok == token.CONTINUE || s.Tok == token.BREAK)
	}
	return false
}

func allBlank(list []ast.Expr) bool {
	return !slices.ContainsFunc(list, func(e ast.Expr) bool {
		name, ok := e.(*ast.Ident)
		return !ok || name.Name != "_"
	})
}

func (m *mutator) stmt(stmt ast.Stmt) {
	switch s := stmt.(type) {
	case nil:
	case *ast.BlockStmt:
		m.block(s.List)
	case *ast.IfStmt:
		m.stmt(s.Init)
		m.condition(s.Cond)
		m.block(s.Body.List)
		m.stmt(s.Else)
	case *ast.ForStmt:
		m.stmt(s.Init)
		if s.Cond != nil {
			m.expr(s.Cond)
		}
		m.stmt(s.Post)
		m.block(s.Body.List)
	case *ast.RangeStmt:
		m.expr(s.X)
		n := m.addFrom(s, string(m.src[m.offset(s.Pos()):m.offset(s.Body.Pos())]), "no iteration")
		at := m.offset(s.Body.Lbrace) + 1
		m.opening = append(m.opening, edit{at, at, fmt.Sprintf(" if mutantIs(%d) { break };", n)})
		m.block(s.Body.List)
	case *ast.SwitchStmt:
		m.stmt(s.Init)
		if s.Tag != nil {
			m.expr(s.Tag)
		}
		for _, clause := range s.Body.List {
			clause := clause.(*ast.CaseClause)
			for _, expr := range clause.List {
				if s.Tag == nil {
					m.condition(expr)
				} else {
					m.caseOf(s.Tag, expr)
				}
			}
			m.block(clause.Body)
		}
	case *ast.TypeSwitchStmt:
		m.stmt(s.Init)
		for _, clause := range s.Body.List {
			m.block(clause.(*ast.CaseClause).Body)
		}
	case *ast.ReturnStmt:
		for i, result := range s.Results {
			m.returned(result, i, len(s.Results))
		}
	case *ast.ExprStmt:
		m.expr(s.X)
	case *ast.AssignStmt:
		for _, expr := range append(slices.Clone(s.Lhs), s.Rhs...) {
			m.expr(expr)
		}
	case *ast.IncDecStmt:
		m.expr(s.X)
	case *ast.DeferStmt:
		m.expr(s.Call)
	case *ast.GoStmt:
		m.expr(s.Call)
	case *ast.LabeledStmt:
		m.stmt(s.Stmt)
	case *ast.DeclStmt:
		if d, ok := s.Decl.(*ast.GenDecl); ok && d.Tok == token.VAR {
			for _, spec := range d.Specs {
				for _, expr := range spec.(*ast.ValueSpec).Values {
					m.expr(expr)
				}
			}
		}
	}
}

// condition is what decides a branch.
func (m *mutator) condition(expr ast.Expr) {
	n := m.add(expr, "true", "false")
	m.wrap(expr, fmt.Sprintf("mutantBool(%d, ", n), ")", func() { m.expr(expr) })
}

// caseOf makes a case that never matches.
func (m *mutator) caseOf(tag, expr ast.Expr) {
	name, known := m.typeName(m.info.TypeOf(tag))
	basic, ok := m.info.TypeOf(tag).Underlying().(*types.Basic)
	if !known || !ok || basic.Info()&types.IsString == 0 {
		return
	}
	n := m.addFrom(expr, "case "+m.text(expr), "no case")
	m.wrap(expr, fmt.Sprintf("mutantString[%s](%d, ", name, n), ")", func() {})
}

func (m *mutator) returned(expr ast.Expr, i, count int) {
	tv := m.info.Types[expr]
	if m.results == nil || m.results.Len() != count || tv.IsNil() {
		m.expr(expr)
		return
	}
	basic, _ := tv.Type.Underlying().(*types.Basic)
	switch {
	case basic != nil && basic.Info()&types.IsBoolean != 0 && tv.Value != nil:
		n := m.addFrom(expr, "return "+m.text(expr), strconv.FormatBool(!constant.BoolVal(tv.Value)))
		m.wrap(expr, "(", fmt.Sprintf(") != mutantIs(%d)", n), func() {})
	case basic != nil && basic.Info()&types.IsBoolean != 0:
		n := m.addFrom(expr, "return "+m.text(expr), "true", "false")
		m.wrap(expr, fmt.Sprintf("mutantBool(%d, ", n), ")", func() { m.expr(expr) })
	case tv.Value == nil && !isZero(expr) && types.Identical(tv.Type, m.results.At(i).Type()):
		n := m.addFrom(expr, "return "+m.text(expr), "the zero value")
		m.wrap(expr, fmt.Sprintf("mutantZero(%d, ", n), ")", func() { m.expr(expr) })
	default:
		m.expr(expr)
	}
}

func isZero(expr ast.Expr) bool {
	switch e := expr.(type) {
	case *ast.CompositeLit:
		return len(e.Elts) == 0
	case *ast.StarExpr: // *new(T)
		call, ok := e.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		name, ok := call.Fun.(*ast.Ident)
		return ok && name.Name == "new"
	}
	return false
}

func isInteger(t types.Type) bool {
	basic, ok := t.Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsInteger != 0
}

func (m *mutator) expr(expr ast.Expr) {
	switch e := expr.(type) {
	case *ast.BinaryExpr:
		m.binary(e)
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			n := m.add(e, m.text(e.X))
			m.wrap(e, "((", fmt.Sprintf(") != mutantIs(%d))", n), func() { m.expr(e.X) })
			return
		}
		if e.Op != token.AND { // the address of a literal
			m.expr(e.X)
			return
		}
		m.expr(e.X)
	case *ast.BasicLit:
		m.literal(e)
	case *ast.ParenExpr:
		m.expr(e.X)
	case *ast.CallExpr:
		if tv := m.info.Types[e.Fun]; !tv.IsType() {
			m.expr(e.Fun)
		}
		for _, arg := range e.Args {
			m.expr(arg)
		}
	case *ast.SelectorExpr:
		m.expr(e.X)
	case *ast.IndexExpr:
		m.expr(e.X)
		if !m.info.Types[e.Index].IsType() {
			m.expr(e.Index)
		}
	case *ast.SliceExpr:
		m.expr(e.X)
		for _, bound := range []ast.Expr{e.Low, e.High, e.Max} {
			if bound != nil {
				m.expr(bound)
			}
		}
	case *ast.StarExpr:
		if !m.info.Types[e].IsType() {
			m.expr(e.X)
		}
	case *ast.TypeAssertExpr:
		m.expr(e.X)
	case *ast.KeyValueExpr:
		m.expr(e.Value)
	case *ast.CompositeLit:
		for _, element := range e.Elts {
			m.expr(element)
		}
	case *ast.FuncLit:
		results := m.results
		m.results = m.info.TypeOf(e).(*types.Signature).Results()
		m.block(e.Body.List)
		m.results = results
	}
}

func (m *mutator) binary(e *ast.BinaryExpr) {
	x, y, op := m.text(e.X), m.text(e.Y), e.Op.String()
	// What stands around the operator names the mutant.
	left, right := tail(x), head(y)
	operands := func() { m.expr(e.X); m.expr(e.Y) }
	// between replaces the operator. It stands where nothing else does, so that its order does not matter.
	between := func(text string) {
		at := m.offset(e.OpPos)
		m.opening = append(m.opening, edit{at, at + len(op), text})
	}
	constantOperands := m.info.Types[e.X].Value != nil && m.info.Types[e.Y].Value != nil
	switch e.Op {
	case token.LAND, token.LOR:
		helper, other := "mutantAnd", "||"
		if e.Op == token.LOR {
			helper, other = "mutantOr", "&&"
		}
		n := m.addFrom(e, left+" "+op+" "+right, left+" "+other+" "+right, "_ "+op+" "+right, left+" "+op+" _")
		m.wrap(e, fmt.Sprintf("%s(%d, ", helper, n), ")})", func() {
			m.expr(e.X)
			between(", func() bool { return (")
			m.expr(e.Y)
		})
	case token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
		opposite := map[token.Token]string{token.EQL: "!=", token.NEQ: "==", token.LSS: ">=", token.LEQ: ">", token.GTR: "<=", token.GEQ: "<"}[e.Op]
		n := m.addFrom(e, left+" "+op+" "+right, left+" "+opposite+" "+right)
		before, after := "((", fmt.Sprintf(") != mutantIs(%d))", n)
		switch e.Op {
		case token.LSS, token.GTR:
			n := m.addFrom(e, left+" "+op+" "+right, left+" "+op+"= "+right)
			after = fmt.Sprintf(" || mutantIs(%d) && (%s) == (%s)", n, x, y) + after
		case token.LEQ, token.GEQ:
			n := m.addFrom(e, left+" "+op+" "+right, left+" "+op[:1]+" "+right)
			after = fmt.Sprintf(" && !(mutantIs(%d) && (%s) == (%s))", n, x, y) + after
		}
		m.wrap(e, before, after, operands)
	case token.ADD, token.SUB:
		if !isInteger(m.info.TypeOf(e)) || constantOperands {
			operands()
			return
		}
		helper, other := "mutantSum", "-"
		if e.Op == token.SUB {
			helper, other = "mutantDifference", "+"
		}
		n := m.addFrom(e, left+" "+op+" "+right, left+" "+other+" "+right)
		m.wrap(e, fmt.Sprintf("%s(%d, ", helper, n), ")", func() {
			m.expr(e.X)
			between(",")
			m.expr(e.Y)
		})
	default:
		operands()
	}
}

func (m *mutator) literal(e *ast.BasicLit) {
	t := m.info.TypeOf(e)
	basic, ok := t.Underlying().(*types.Basic)
	name, known := m.typeName(t)
	if !ok || !known || basic.Info()&types.IsUntyped != 0 {
		return
	}
	switch {
	case e.Kind == token.STRING && basic.Info()&types.IsString != 0:
		value, _ := strconv.Unquote(e.Value)
		n := m.add(e, strconv.Quote("mutant"+value))
		m.wrap(e, fmt.Sprintf("mutantString[%s](%d, ", name, n), ")", func() {})
	case e.Kind == token.INT && isInteger(t):
		value, err := strconv.ParseInt(e.Value, 0, 64)
		if err != nil {
			return
		}
		n := m.add(e, strconv.FormatInt(value+1, 10))
		m.wrap(e, fmt.Sprintf("mutantNumber[%s](%d, ", name, n), ")", func() {})
	}
}
