'use strict';
(() => {
const report = JSON.parse(document.getElementById('report').textContent);
const $ = id => document.getElementById(id);
const STATES = ['broken', 'warning', 'unknown', 'ok'];
const STATE_WORDS = {broken: 'broken', warning: 'warning', unknown: 'not known', ok: 'healthy'};
const SEVERITIES = {error: 'broken', warning: 'warning', info: 'info'};
const CHUNK = 40;
const list = value => value || [];

// el makes an element. Texts of the report only ever become text nodes.
const el = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child != null && child !== '') node.append(child);
  return node;
};
const plural = (count, one, many) => `${count.toLocaleString('en')} ${count === 1 ? one : many || one + 's'}`;
const dot = state => el('span', {class: `dot ${state}`, title: STATE_WORDS[state] || state}, el('span', {class: 'sr'}, STATE_WORDS[state] || state));
const badge = (state, text) => el('span', {class: `badge ${state}`}, text);

const key = ref => [ref.group || '', ref.kind, ref.namespace || '', ref.name].join('|');
const kindOf = ref => ref.group ? `${ref.kind}.${ref.group}` : ref.kind;
const title = ref => `${kindOf(ref)} ${ref.namespace ? ref.namespace + '/' : ''}${ref.name}`;

// Everything that can be shown in the details, by key.
const objects = new Map();
const remember = (kind, items) => list(items).forEach(item => objects.set(kind === 'namespace' ? key({kind: 'Namespace', name: item.name}) : key(item), {kind, item}));
remember('namespace', report.namespaces);
remember('gateway', report.gateways);
remember('route', report.routes);
remember('backend', report.backends);
remember('grant', report.grants);

const findingsOf = new Map();
list(report.findings).forEach((finding, index) => {
  finding.index = index;
  for (const ref of [finding.object, ...list(finding.related)]) {
    const k = key(ref);
    if (!findingsOf.has(k)) findingsOf.set(k, []);
    if (!findingsOf.get(k).includes(finding)) findingsOf.get(k).push(finding);
  }
});

const edgesFrom = new Map();
list(report.edges).forEach(edge => {
  const k = key(edge.from);
  if (!edgesFrom.has(k)) edgesFrom.set(k, []);
  edgesFrom.get(k).push(edge);
});

// What the search looks through, lower case, by route and by finding.
const routeText = new Map(list(report.routes).map(route => [key(route), [
  title(route), route.origin, route.model, route.role, ...list(route.hostnames),
  ...list(route.parents).map(p => title(p.gateway)), ...list(route.references).map(r => title(r.backend)),
  ...list(findingsOf.get(key(route))).map(f => `${f.check} ${f.problem}`),
].join(' ').toLowerCase()]));
const findingText = list(report.findings).map(f => `${f.check} ${f.severity} ${title(f.object)} ${f.field} ${f.value || ''} ${f.problem} ${f.next}`.toLowerCase());

// What the user asked for; it is kept in the address, so that a view can be linked to.
const view = {text: '', states: new Set(STATES), namespace: '', check: '', selected: '', theme: ''};
const opened = new Map(); // cards the user opened or closed
const grown = new Map();  // how many rows of a card are shown

const readAddress = () => {
  const asked = new URLSearchParams(location.hash.slice(1));
  view.text = asked.get('q') || '';
  view.states = new Set(asked.has('state') ? asked.get('state').split(',').filter(s => STATES.includes(s)) : STATES);
  view.namespace = asked.get('namespace') || '';
  view.check = asked.get('check') || '';
  view.selected = asked.get('show') || '';
  view.theme = asked.get('theme') || '';
};
const writeAddress = () => {
  const say = new URLSearchParams();
  if (view.text) say.set('q', view.text);
  if (view.states.size < STATES.length) say.set('state', [...view.states].join(','));
  if (view.namespace) say.set('namespace', view.namespace);
  if (view.check) say.set('check', view.check);
  if (view.selected) say.set('show', view.selected);
  if (view.theme) say.set('theme', view.theme);
  const hash = say.toString();
  history.replaceState(null, '', hash ? '#' + hash : location.pathname + location.search);
};

const filtered = () => view.text || view.namespace || view.check || view.states.size < STATES.length;
const words = () => view.text.toLowerCase().split(/\s+/).filter(Boolean);
const worst = items => STATES.find(state => items.some(item => item.state === state)) || 'ok';
const byState = (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state);

let shown; // what passes the filter
const filter = () => {
  const wanted = words();
  const ofCheck = view.check ? new Set(list(report.findings).filter(f => f.check === view.check).flatMap(f => [f.object, ...list(f.related)]).map(key)) : null;
  const routes = list(report.routes).filter(route => view.states.has(route.state)
    && (!view.namespace || route.namespace === view.namespace || route.origin === view.namespace || list(route.references).some(r => r.backend.namespace === view.namespace))
    && (!ofCheck || ofCheck.has(key(route)))
    && wanted.every(word => routeText.get(key(route)).includes(word)));
  const keys = new Set(routes.map(key));
  const touched = new Set();
  for (const k of keys) for (const edge of list(edgesFrom.get(k))) touched.add(key(edge.to));
  const everything = !filtered();
  const named = item => wanted.length > 0 && wanted.every(word => title(item).toLowerCase().includes(word)) || ofCheck && ofCheck.has(key(item));
  const backends = list(report.backends).filter(item => everything || touched.has(key(item)) || named(item));
  const visible = new Set(backends.map(key));
  const grants = list(report.grants).filter(item => everything || named(item) || list(edgesFrom.get(key(item))).some(edge => visible.has(key(edge.to))));
  const findings = list(report.findings).filter((f, i) => (!view.check || f.check === view.check)
    && (!view.namespace || f.object.namespace === view.namespace || f.object.kind === 'Namespace' && f.object.name === view.namespace || keys.has(key(f.object)))
    && (view.states.size === STATES.length || view.states.has({error: 'broken', warning: 'warning', info: 'ok'}[f.severity]))
    && wanted.every(word => findingText[i].includes(word)));
  return {routes, keys, gateways: list(report.gateways).filter(item => everything || touched.has(key(item)) || named(item)), backends, grants, findings};
};

// ---- the summary ----
const summary = () => {
  const s = report.summary, found = s.findings || {};
  const tile = (kind, count, text) => el('div', {class: `tile ${kind}`}, el('b', {}, count.toLocaleString('en')), el('span', {class: 'faint'}, text));
  $('summary').replaceChildren(
    tile('', s.routes, s.routes === 1 ? 'route' : 'routes'),
    tile('ok', s.healthy, 'healthy'),
    tile(found.error ? 'broken' : '', found.error || 0, found.error === 1 ? 'error' : 'errors'),
    tile(found.warning ? 'warning' : '', found.warning || 0, found.warning === 1 ? 'warning' : 'warnings'),
    tile('', found.info || 0, 'for information'),
    ...(report.plugin ? [pluginTile(report.plugin)] : []));
  const notKnown = list(report.notKnown);
  if (notKnown.length) $('unknown').replaceChildren(el('details', {class: 'note', open: notKnown.length < 4},
    el('summary', {}, plural(notKnown.length, 'thing') + ' could not be read, and so was not looked at'), el('ul', {}, notKnown.map(text => el('li', {}, text)))));
};
const pluginTile = plugin => el('div', {class: 'tile wide'},
  el('b', {}, !plugin.algorithmKnown ? 'AIBrix’s routing algorithm is not known' : plugin.algorithm ? `ROUTING_ALGORITHM=${plugin.algorithm}` : 'No default routing algorithm'),
  el('span', {class: 'faint'}, !plugin.algorithmKnown ? 'whether requests depend on their HTTPRoute cannot be said'
    : plugin.algorithm ? 'requests bypass their HTTPRoute and its status' : 'requests without a routing strategy go through their HTTPRoute'));

// ---- the map ----
const rows = new Map(); // the elements that stand for an object now, by key
const select = (k, finding) => {
  view.selected = k; chosen = finding === undefined ? -1 : finding;
  writeAddress(); details(); light();
};
let chosen = -1;

const row = (ref, ...children) => {
  const k = key(ref);
  const node = el('button', {class: 'row', type: 'button', 'data-key': k, title: title(ref), onclick: () => select(k),
    onmouseenter: () => light(k), onmouseleave: () => light(), onfocus: () => light(k), onblur: () => light()}, children);
  rows.set(k, node);
  return node;
};
const small = text => text ? el('span', {class: 'more'}, text) : null;

// card is a box with a head and rows, which are made only while it is open.
const card = (id, name, items, make, state, options = {}) => {
  const few = shown.routes.length <= 60;
  const open = opened.has(id) ? opened.get(id) : options.open || few;
  const node = el('section', {class: `card ${state}`, 'aria-label': name});
  const counts = STATES.filter(s => s !== 'ok').map(s => [s, items.filter(item => item.state === s).length]).filter(([, count]) => count);
  const k = options.key;
  const head = el('button', {class: 'head', type: 'button', 'aria-expanded': String(open), 'data-card': id, title: options.title || name,
    onclick: () => { opened.set(id, !open); if (k) view.selected = k; writeAddress(); draw(); $('map').querySelector(`[data-card="${CSS.escape(id)}"]`).focus(); },
    onmouseenter: () => light(k), onmouseleave: () => light(), onfocus: () => light(k), onblur: () => light()},
    el('span', {class: 'fold', 'aria-hidden': 'true'}, open ? '▾' : '▸'), el('span', {class: 'name'}, name), options.tag ? el('span', {class: 'tag'}, options.tag) : null,
    counts.map(([s, count]) => badge(s, `${count.toLocaleString('en')} ${STATE_WORDS[s]}`)), options.count === null ? null : badge('plain', items.length.toLocaleString('en')));
  if (k) rows.set(k, head);
  node.append(head);
  node.head = head;
  if (open) {
    const limit = grown.get(id) || CHUNK;
    items.slice(0, limit).forEach(item => node.append(make(item)));
    if (items.length > limit) node.append(el('button', {class: 'row grow', type: 'button', onclick: () => { grown.set(id, limit + 5 * CHUNK); draw(); }},
      `${(items.length - limit).toLocaleString('en')} more, show ${Math.min(items.length - limit, 5 * CHUNK)}`));
  }
  for (const item of items) if (!rows.has(key(item))) rows.set(key(item), head);
  return node;
};
const groupBy = (items, of) => {
  const groups = new Map();
  for (const item of items) { const g = of(item); if (!groups.has(g)) groups.set(g, []); groups.get(g).push(item); }
  // The system namespace, then what is broken, then by name.
  const rank = ([name, of]) => name === report.systemNamespace ? -1 : STATES.indexOf(worst(of));
  return [...groups].sort((a, b) => rank(a) - rank(b) || (a[0] < b[0] ? -1 : 1));
};
const listenerKey = (gateway, name) => key(gateway) + '#' + name;
const endpoints = backend => backend.exists === 'no' ? 'missing' : backend.note ? 'not known' : backend.exists !== 'yes' || backend.kind !== 'Service' ? '' : `${backend.ready} ready` + (backend.notReady ? `, ${backend.notReady} not` : '');

const columns = () => {
  rows.clear();
  const cards = (id, nodes, empty) => $(id).querySelector('.cards').replaceChildren(...(nodes.length ? nodes : [el('p', {class: 'empty'}, empty)]));
  cards('gateways', shown.gateways.map(gateway => {
    const listeners = list(gateway.listeners).map(l => ({...gateway, listener: l}));
    const node = card(key(gateway), `${gateway.namespace}/${gateway.name}`, [], null, gateway.state, {key: key(gateway), open: true, tag: gateway.exists ? '' : 'missing', count: null});
    if (node.head.getAttribute('aria-expanded') === 'true') listeners.forEach(({listener}) => {
      const line = row(gateway, el('span', {class: 'name'}, listener.name), el('span', {class: 'more'}, [`${listener.protocol} ${listener.port}`, listener.hostname, plural(listener.routes || 0, 'route')].filter(Boolean).join(' · ')));
      rows.set(listenerKey(gateway, listener.name), line);
      node.append(line);
    });
    rows.set(key(gateway), node.head);
    return node;
  }), 'No Gateway matches');
  cards('routes', groupBy(shown.routes, route => route.namespace).map(([namespace, routes]) => card('routes/' + namespace, namespace, [...routes].sort(byState),
    route => row(route, dot(route.state), el('span', {class: 'name'}, route.name), route.kind === 'HTTPRoute' ? null : el('span', {class: 'tag'}, route.kind), route.role === 'route' ? null : el('span', {class: 'tag'}, route.role === 'copy' ? `copy, from ${route.origin}` : 'parked'),
      small([route.model && `model ${route.model}`, ...list(route.hostnames)].filter(Boolean).join(' · '))),
    worst(routes), {key: key({kind: 'Namespace', name: namespace}), tag: namespace === report.systemNamespace ? 'system' : ''})), 'No route matches');
  const targets = groupBy([...shown.backends, ...shown.grants], item => item.namespace);
  cards('backends', targets.map(([namespace, items]) => card('backends/' + namespace, namespace, [...items].sort((a, b) => (a.owner ? 1 : 0) - (b.owner ? 1 : 0) || byState(a, b)),
    item => item.owner
      ? row(item, dot(item.state), el('span', {class: 'tag'}, 'grant'), el('span', {class: 'name'}, item.name), small(`${item.owner === 'other' ? 'by hand' : item.owner} · ${plural(item.uses, 'use')}`))
      : row(item, dot(item.state), el('span', {class: 'name'}, item.name), item.kind === 'Service' ? null : el('span', {class: 'tag'}, item.kind), small(endpoints(item))),
    worst(items), {key: key({kind: 'Namespace', name: namespace}) + '>', tag: grantsTag(namespace)})), 'No backend matches');
};
const grantsTag = name => {
  const known = objects.get(key({kind: 'Namespace', name}));
  return !known ? '' : known.item.exists === 'no' ? 'missing' : known.item.grants ? `grants=${known.item.grants}` : '';
};

// ---- the edges ----
// A route that the gateway has accepted is attached well. What is wrong behind it has its own line.
const taken = edge => {
  const parents = list(objects.get(key(edge.from))?.item.parents).filter(p => key(p.gateway) === key(edge.to));
  const conditions = parents.flatMap(p => list(p.status)).flatMap(s => list(s.conditions)).filter(c => c.type === 'Accepted');
  return Boolean(edge.listener) && conditions.length > 0 && conditions.every(c => c.status === 'True')
    && parents.some(p => list(p.listeners).some(l => l.listener === edge.listener && l.accepted === 'yes'));
};
const stateOf = edge => edge.kind === 'attaches' && edge.state === 'broken' && taken(edge) ? 'ok' : edge.state;
const drawn = []; // paths with the keys that they touch
const lines = () => {
  const svg = $('edges'), origin = $('map').getBoundingClientRect();
  drawn.length = 0;
  const box = node => {
    const r = node.getBoundingClientRect();
    return {left: r.left - origin.left, right: r.right - origin.left, y: r.top - origin.top + Math.min(r.height, 34) / 2};
  };
  const bundles = new Map();
  for (const edge of list(report.edges)) {
    const fromRoute = edge.kind !== 'permits';
    if (fromRoute && !shown.keys.has(key(edge.from))) continue;
    const from = rows.get(key(edge.from));
    const to = edge.listener && rows.get(key(edge.to) + '#' + edge.listener) || rows.get(key(edge.to));
    if (!from || !to || from === to) continue;
    const closed = node => node.classList.contains('head');
    if (edge.kind === 'permits' && (closed(from) || closed(to))) continue;
    let byTo = bundles.get(from);
    if (!byTo) bundles.set(from, byTo = new Map());
    const name = edge.kind;
    let byKind = byTo.get(to);
    if (!byKind) byTo.set(to, byKind = new Map());
    const bundle = byKind.get(name) || {kind: name, from, to, states: {}, keys: new Set(), count: 0};
    const state = stateOf(edge);
    bundle.states[state] = (bundle.states[state] || 0) + 1;
    bundle.count++;
    bundle.keys.add(key(edge.from)); bundle.keys.add(key(edge.to));
    byKind.set(name, bundle);
  }
  const all = [...bundles.values()].flatMap(m => [...m.values()]).flatMap(m => [...m.values()]);
  all.forEach(b => { b.state = STATES.find(s => b.states[s]) || 'ok'; });
  all.sort((a, b) => STATES.indexOf(b.state) - STATES.indexOf(a.state)); // broken ones on top
  const ns = 'http://www.w3.org/2000/svg';
  const boxes = new Map();
  const boxOf = node => { let b = boxes.get(node); if (!b) boxes.set(node, b = box(node)); return b; };
  const nodes = [], ends = new Map();
  for (const b of all) {
    const from = boxOf(b.from), to = boxOf(b.to);
    let d;
    if (b.kind === 'attaches') {
      const bend = (from.left - to.right) / 2;
      d = `M${to.right},${to.y} C${to.right + bend},${to.y} ${from.left - bend},${from.y} ${from.left},${from.y}`;
    } else if (b.kind === 'refers') {
      const bend = (to.left - from.right) / 2;
      d = `M${from.right},${from.y} C${from.right + bend},${from.y} ${to.left - bend},${to.y} ${to.left},${to.y}`;
    } else { // within one column, past its outer side
      const x = b.kind === 'permits' ? Math.max(from.right, to.right) : Math.min(from.left, to.left), out = b.kind === 'permits' ? 18 : -18;
      d = `M${b.kind === 'permits' ? from.right : from.left},${from.y} C${x + out},${from.y} ${x + out},${to.y} ${b.kind === 'permits' ? to.right : to.left},${to.y}`;
    }
    const path = document.createElementNS(ns, 'path');
    path.setAttribute('d', d);
    path.setAttribute('class', `${b.state} ${b.kind}`);
    nodes.push(path);
    if (b.count > 1) path.style.strokeWidth = Math.min(b.state === 'broken' ? 1.8 : 5, 1.4 + Math.log2(b.states[b.state]) / 4) + 'px';
    // What a bundle holds is shown where it ends at a namespace: there, bundles do not cross.
    const end = b.kind === 'attaches' ? b.from : b.kind === 'refers' ? b.to : null;
    if (end && end.classList.contains('head')) {
      const sum = ends.get(end) || {count: 0, bad: 0, x: boxOf(end).left - 5, y: boxOf(end).y};
      sum.count += b.count; sum.bad += b.states.broken || 0;
      ends.set(end, sum);
    }
    drawn.push({path, keys: b.keys});
  }
  for (const end of ends.values()) {
    const text = document.createElementNS(ns, 'text');
    text.setAttribute('x', end.x); text.setAttribute('y', end.y - 6);
    if (end.bad) text.setAttribute('class', 'broken');
    text.textContent = end.bad ? `✕ ${end.bad.toLocaleString('en')}` : end.count.toLocaleString('en');
    nodes.push(text);
  }
  svg.replaceChildren(...nodes);
  svg.classList.toggle('dense', all.length > 100);
  light();
};

// light shows what one object has to do with.
const light = hovered => {
  const k = (hovered || view.selected || '').replace(/>$/, '').replace(/#.*$/, '');
  let any = false;
  const related = drawn.map(d => [d, k && d.keys.has(k)]);
  for (const [d, lit] of related) { d.path.classList.toggle('lit', lit); any = any || lit; }
  $('edges').classList.toggle('lit', any);
  for (const node of document.querySelectorAll('#map .selected')) node.classList.remove('selected');
  const own = rows.get(view.selected);
  if (own) own.classList.add('selected');
};

// ---- the details ----
const command = text => text ? el('div', {class: 'command'}, el('code', {}, text), el('button', {type: 'button', onclick: async event => {
  const button = event.currentTarget;
  try { await navigator.clipboard.writeText(text); button.textContent = 'Copied'; } catch {
    // Pages of a file may not reach the clipboard everywhere: then the text is selected for the user's own keys.
    getSelection().selectAllChildren(button.previousSibling); button.textContent = 'Selected';
  }
}}, 'Copy')) : null;
const findingBox = finding => el('div', {class: `finding ${finding.severity}` + (finding.index === chosen ? ' chosen' : '')},
  el('div', {class: 'what'}, `${finding.severity} · ${finding.check}`), finding.field ? el('div', {}, el('code', {}, finding.field), finding.value ? `: ${finding.value}` : '') : null,
  el('div', {}, finding.problem), el('div', {}, el('b', {}, 'Next: '), finding.next), command(finding.command));
const link = (ref, text) => objects.has(key(ref)) ? el('button', {class: 'link', type: 'button', onclick: () => select(key(ref))}, text || title(ref)) : text || title(ref);
const facts = pairs => el('dl', {}, pairs.filter(([, value]) => value != null && value !== '').flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
const stateWords = state => [dot(state), ' ', STATE_WORDS[state] || state];
const yes = answer => el('span', {class: answer === 'yes' || answer === 'True' ? 'good' : answer === 'no' || answer === 'False' ? 'bad' : 'unsure'}, answer === 'yes' ? '✓' : answer === 'no' ? '✕' : answer);

const about = {
  route: route => [
    facts([['State', stateWords(route.state)], ['Written in', route.origin !== route.namespace ? route.origin : ''], ['Role', route.role === 'copy' ? 'relocated copy' : route.role === 'source' ? 'parked source' : ''],
      ['Governed', route.governed === 'misdirected' ? 'misdirected: a parentRef names no namespace' : ''], ['Hostnames', list(route.hostnames).join(', ')], ['Model', route.model]]),
    el('h3', {}, 'Gateways'), list(route.parents).length ? null : el('p', {class: 'faint'}, 'none'),
    list(route.parents).map(parent => el('div', {class: 'part'}, dot(parent.state), ' ', el('code', {}, parent.field), ' → ', link(parent.gateway), parent.sectionName ? ` listener ${parent.sectionName}` : '', parent.port ? ` port ${parent.port}` : '',
      el('ul', {}, list(parent.listeners).map(l => el('li', {}, yes(l.accepted), ` listener ${l.listener}`, l.accepted === 'yes' ? ' accepts it' : '', l.reason ? ` ${l.reason}` : '', l.words ? `: ${l.words}` : '')),
        list(parent.status).length ? list(parent.status).map(status => el('li', {}, el('span', {class: 'faint'}, status.controller), el('ul', {}, list(status.conditions).map(c => el('li', {},
          el('b', {}, `${c.type}=`), yes(c.status), c.reason && c.reason !== c.type ? ` ${c.reason}` : '', c.stale ? ' (stale)' : '', c.words ? `: ${c.words}` : c.message ? `: ${c.message}` : '')))))
          : el('li', {class: 'unsure'}, 'no gateway controller has written a status')))),
    el('h3', {}, 'Backends'), list(route.references).length ? null : el('p', {class: 'faint'}, 'none'),
    list(route.references).map(ref => el('div', {class: 'part'}, dot(ref.state), ' ', el('code', {}, ref.field), ' → ', link(ref.backend), ref.port ? `:${ref.port}` : '',
      ref.cross ? el('ul', {}, el('li', {}, `another namespace: ${ref.withheld ? 'withheld from the copy: ' : ''}${ref.outcome || 'not evaluated'}`, ref.consent ? ` (${ref.consent})` : ''), list(ref.grants).map(name => el('li', {}, 'by ', link({kind: 'ReferenceGrant', namespace: ref.backend.namespace, name: name.split('/').pop()}, name)))) : null)),
  ],
  gateway: gateway => [
    facts([['State', stateWords(gateway.state)], ['Class', gateway.class], ['Exists', gateway.exists ? '' : 'no']]),
    el('h3', {}, 'Listeners'), el('ul', {}, list(gateway.listeners).map(l => el('li', {}, el('b', {}, l.name), ` ${l.protocol} ${l.port}${l.hostname ? ' ' + l.hostname : ''}: `, l.allowedNamespaces, `; accepts ${plural(l.routes || 0, 'audited route')}`))),
  ],
  backend: backend => {
    const users = list(report.routes).filter(route => list(route.references).some(ref => key(ref.backend) === key(backend)));
    const opening = list(report.edges).filter(edge => edge.kind === 'permits' && key(edge.to) === key(backend)).map(edge => edge.from);
    return [
      facts([['State', stateWords(backend.state)], ['Exists', backend.exists], ['Endpoints', endpoints(backend)], ['Note', backend.note]]),
      el('h3', {}, `Used by ${plural(users.length, 'route')}`), links(users),
      ...(opening.length ? [el('h3', {}, 'Opened by'), links(opening)] : []),
    ];
  },
  grant: grant => [
    facts([['State', stateWords(grant.state)], ['Owner', grant.owner === 'other' ? 'written by people' : grant.owner], ['Uses', plural(grant.uses, 'reference')]]),
    el('h3', {}, 'Permits'), el('ul', {}, list(grant.permits).map(text => el('li', {}, text))),
  ],
  namespace: namespace => {
    const routes = list(report.routes).filter(route => route.namespace === namespace.name);
    return [
      facts([['State', stateWords(namespace.state)], ['Exists', namespace.exists], ['Consent', namespace.grants ? `routesteward.dev/grants=${namespace.grants}` : 'no statement'], ['Routes', routes.length],
        ['Backends', list(report.backends).filter(b => b.namespace === namespace.name).length], ['Grants', list(report.grants).filter(g => g.namespace === namespace.name).length]]),
    ];
  },
};
const links = refs => el('ul', {}, refs.slice(0, CHUNK).map(ref => el('li', {}, link(ref))), refs.length > CHUNK ? el('li', {class: 'faint'}, `and ${refs.length - CHUNK} more`) : null);

const details = () => {
  const panel = $('details');
  const k = view.selected.replace(/>$/, '');
  const known = objects.get(k);
  const finding = chosen >= 0 ? report.findings[chosen] : null;
  panel.classList.toggle('filled', Boolean(known || finding));
  if (!known && !finding) {
    panel.replaceChildren(el('h2', {}, 'Details'), el('p', {class: 'faint'}, 'Choose a Gateway, route, backend, grant or finding.'),
      list(report.findings).length ? el('p', {class: 'faint'}, 'Start here:') : el('p', {class: 'good'}, 'Nothing is wrong.'), ...list(report.findings).slice(0, 3).map(findingBox));
    return;
  }
  const of = list(findingsOf.get(k));
  const ordered = finding ? [finding, ...of.filter(f => f !== finding)] : of;
  panel.replaceChildren(el('button', {class: 'close', type: 'button', 'aria-label': 'Close the details', onclick: () => select('')}, '✕'),
    el('h2', {}, known ? title(known.kind === 'namespace' ? {kind: 'Namespace', name: known.item.name} : known.item) : title(finding.object)),
    ...ordered.slice(0, CHUNK).map(findingBox), ordered.length > CHUNK ? el('p', {class: 'faint'}, `and ${ordered.length - CHUNK} more findings`) : '',
    ...(known ? about[known.kind](known.item).flat() : []).filter(Boolean));
  panel.scrollTop = 0;
};

// ---- the findings ----
const openChecks = new Map();
const findingRow = finding => el('button', {class: 'row', type: 'button', 'data-finding': finding.index, onclick: () => { select(key(finding.object), finding.index); $('details').scrollIntoView({block: 'nearest'}); $('details').focus({preventScroll: true}); }},
  dot(SEVERITIES[finding.severity] || finding.severity), el('span', {class: 'name', title: title(finding.object)}, title(finding.object)), el('span', {class: 'words'}, finding.problem,
    el('span', {class: 'paper'}, `Next: ${finding.next}`, finding.command ? el('code', {}, `$ ${finding.command}`) : '')));
const findings = () => {
  const groups = [];
  const byCheck = new Map();
  for (const finding of shown.findings) {
    const name = finding.severity + ' ' + finding.check;
    if (!byCheck.has(name)) { byCheck.set(name, []); groups.push([name, byCheck.get(name)]); }
    byCheck.get(name).push(finding);
  }
  const total = list(report.findings).length;
  const nodes = groups.map(([name, items], i) => {
    const open = openChecks.has(name) ? openChecks.get(name) : i === 0 || shown.findings.length <= CHUNK;
    const box = el('details', {open, ontoggle: () => { openChecks.set(name, box.open); if (box.open) fill(CHUNK); }},
      el('summary', {}, dot(SEVERITIES[items[0].severity]), el('b', {}, items[0].check), badge(SEVERITIES[items[0].severity], plural(items.length, 'finding'))));
    let count = 0;
    const fill = wanted => {
      if (count >= Math.min(wanted, items.length)) return;
      box.querySelector('.grow')?.remove();
      const fragment = document.createDocumentFragment();
      for (; count < Math.min(wanted, items.length); count++) fragment.append(findingRow(items[count]));
      if (count < items.length) fragment.append(el('button', {class: 'row grow', type: 'button', onclick: () => fill(count + 5 * CHUNK)}, `${(items.length - count).toLocaleString('en')} more, show ${Math.min(items.length - count, 5 * CHUNK)}`));
      box.append(fragment);
    };
    box.fill = fill;
    if (open) fill(CHUNK);
    return box;
  });
  $('findings').replaceChildren(el('h2', {}, `Findings${shown.findings.length === total ? '' : `: ${shown.findings.length.toLocaleString('en')} of ${total.toLocaleString('en')}`}`),
    ...(nodes.length ? nodes : [el('p', {class: 'empty'}, total ? 'No finding matches' : 'Nothing was found.')]));
};

// ---- the tools ----
const tools = () => {
  const counts = Object.fromEntries(STATES.map(s => [s, list(report.routes).filter(r => r.state === s).length]));
  $('states').replaceChildren(...STATES.map(state => el('button', {type: 'button', 'data-state': state, 'aria-pressed': String(view.states.has(state)), onclick: () => {
    if (view.states.has(state)) view.states.delete(state); else view.states.add(state);
    refresh();
    $('states').querySelector(`[data-state=${state}]`).focus();
  }}, dot(state), ` ${counts[state].toLocaleString('en')}`)));
  const options = (id, none, values, value) => $(id).replaceChildren(el('option', {value: ''}, none), ...values.map(([v, text]) => el('option', {value: v, selected: v === value}, text)));
  const namespaces = new Set(list(report.namespaces).map(n => n.name));
  options('namespace', 'All namespaces', [...namespaces].sort().map(name => [name, name]), view.namespace);
  const checks = new Map();
  list(report.findings).forEach(f => checks.set(f.check, (checks.get(f.check) || 0) + 1));
  options('check', 'All checks', [...checks].map(([name, count]) => [name, `${name} (${count})`]), view.check);
  if ($('search').value !== view.text) $('search').value = view.text;
  $('reset').disabled = !filtered();
  $('count').textContent = `${shown.routes.length.toLocaleString('en')} of ${plural(list(report.routes).length, 'route')}`;
};

const draw = () => { columns(); lines(); details(); };
const refresh = () => { shown = filter(); grown.clear(); tools(); draw(); findings(); writeAddress(); };
const theme = () => { if (view.theme) document.documentElement.dataset.theme = view.theme; else delete document.documentElement.dataset.theme; };

let pending = 0;
$('search').addEventListener('input', event => { view.text = event.target.value; clearTimeout(pending); pending = setTimeout(() => { opened.clear(); refresh(); }, 80); });
$('namespace').addEventListener('change', event => { view.namespace = event.target.value; opened.clear(); refresh(); });
$('check').addEventListener('change', event => { view.check = event.target.value; opened.clear(); refresh(); });
$('reset').addEventListener('click', () => { Object.assign(view, {text: '', states: new Set(STATES), namespace: '', check: ''}); opened.clear(); refresh(); });
$('theme').addEventListener('click', () => {
  const dark = view.theme ? view.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  view.theme = dark ? 'light' : 'dark';
  theme(); writeAddress();
});
document.addEventListener('keydown', event => {
  const typing = event.target.matches('input, select, textarea');
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $('search').focus(); $('search').select(); }
  if (event.key === 'Escape') {
    if (typing && view.text) { view.text = ''; opened.clear(); refresh(); } else if (view.selected || chosen >= 0) { const back = rows.get(view.selected); select(''); if (back) back.focus(); } else document.activeElement.blur();
  }
  if ((event.key === 'ArrowDown' || event.key === 'ArrowUp') && event.target.matches('.row, .head')) {
    const all = [...event.target.closest('.column, #findings').querySelectorAll('.row, .head')].filter(node => node.offsetParent);
    const next = all[all.indexOf(event.target) + (event.key === 'ArrowDown' ? 1 : -1)];
    if (next) { event.preventDefault(); next.focus(); }
  }
});
window.addEventListener('hashchange', () => { readAddress(); theme(); chosen = -1; refresh(); });
window.addEventListener('beforeprint', () => { for (const box of document.querySelectorAll('#findings details')) { box.open = true; box.fill(50 * CHUNK); } });
let measured = 0;
new ResizeObserver(() => { const width = $('map').clientWidth; if (width !== measured) { measured = width; lines(); } }).observe($('map'));

$('legend').replaceChildren('Boxes are namespaces, lines lead from Gateways to routes to backends. ', ...STATES.flatMap(state => [dot(state), ` ${STATE_WORDS[state]}  `]), ' Dashed red: broken. Dotted: what a ReferenceGrant opens.');
readAddress(); theme(); summary(); refresh();
document.documentElement.dataset.ready = 'true';
})();
