// Groups: one panel per figure, sessions by group; a brush in one marks the same sessions in all.
const COLOURS = ['#0b5c7d', '#c2410c', '#3f7d20', '#7c3aed', '#b8860b', '#be185d', '#0f766e', '#6b7280', '#1d4ed8', '#92400e'];
const MOST_POINTS = 1500;  // beyond, only sessions beyond the whiskers are drawn; the brush takes all
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ['lasso2d', 'autoScale2d'] };
const panels = [];

/** A fixed place within its column for each point, so that panels and redrawings agree. */
const jitter = (k) => (((k * 2654435761) % 4294967296) / 4294967296 - 0.5) * 0.5;

function quantile(sorted, q) {
  const at = (sorted.length - 1) * q, low = Math.floor(at), high = Math.ceil(at);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** Quartiles of what counts in each group, and whiskers within 1.5 of their distance. */
function boxOf(values, members) {
  const known = members.filter((k) => all.counts[k] && values[k] != null).map((k) => values[k]).sort((a, b) => a - b);
  if (!known.length) return null;
  const [q1, median, q3] = [0.25, 0.5, 0.75].map((q) => quantile(known, q));
  const reach = 1.5 * (q3 - q1);
  return { q1, median, q3, low: known.find((v) => v >= q1 - reach), high: known.findLast((v) => v <= q3 + reach), n: known.length };
}

function boxTraces(name) {
  const values = all.values[name];
  const boxes = all.groups.map((group, x) => ({ x, group, box: boxOf(values, all.members[x]) })).filter((one) => one.box);
  return [false, true].map((uncertain) => {
    const of = boxes.filter((one) => one.group.uncertain === uncertain);
    return { type: 'box', x: of.map((one) => one.x), q1: of.map((one) => one.box.q1), median: of.map((one) => one.box.median), q3: of.map((one) => one.box.q3),
      lowerfence: of.map((one) => one.box.low), upperfence: of.map((one) => one.box.high), width: 0.62, hoverinfo: 'skip', showlegend: false,
      name: uncertain ? 'few sessions' : 'sessions that count', line: { color: uncertain ? '#b4bdc7' : '#7a8794', width: uncertain ? 1 : 1.3 },
      fillcolor: uncertain ? 'rgba(180,189,199,.10)' : 'rgba(122,135,148,.22)', opacity: uncertain ? 0.75 : 1 };
  }).filter((trace) => trace.x.length);
}

/** What calibration imposes: hollow, and darker the more of it is measured. */
function levelTraces(name) {
  const of = all.groups.flatMap((group, x) => group.levels.filter((level) => level.figure === name).map((level) => ({ x, ...level })));
  if (name.startsWith('CSF_PDmap')) {
    return [{ type: 'scatter', mode: 'lines', x: [-0.5, all.groups.length - 0.5], y: [1, 1], line: { color: '#8b5a00', dash: 'dash', width: 1.2 }, hoverinfo: 'name', name: 'imposed: 1 by definition', showlegend: false }];
  }
  if (!of.length) return [];
  const shade = of.map((level) => `rgba(139,90,0,${(0.35 + 0.65 * level.measured).toFixed(2)})`);
  return [{ type: 'scatter', mode: 'markers', x: of.map((level) => level.x + 0.38), y: of.map((level) => level.value), name: 'imposed level', showlegend: false,
    marker: { symbol: 'diamond-open', size: 9, color: shade, line: { width: 1.6, color: shade } },
    error_y: { type: 'data', array: of.map((level) => level.sd), color: 'rgba(139,90,0,.45)', thickness: 1.2, width: 3 },
    text: of.map((level) => `imposed ${shown(level.value)} ± ${shown(level.sd, 2)}, ${Math.round(100 * level.measured)} % of it measured; maps say ${shown(level.maps)}`), hovertemplate: '%{text}<extra></extra>' }];
}

function colourClasses(what, places) {
  const key = { sex: (k) => all.sex[k] || 'unknown', software: (k) => (all.software[k] || 'unknown').slice(0, 8),
    marks: (k) => (all.quality_marks[k] ? 'marked' : 'not marked'), counts: (k) => all.left_out[k] || (all.counts[k] ? 'counts' : 'no maps that count') }[what];
  const classes = new Map();
  for (const k of places) { const name = key(k); if (!classes.has(name)) classes.set(name, []); classes.get(name).push(k); }
  return [...classes].sort((a, b) => (a[0] < b[0] ? -1 : 1));
}

function pointsOf(name) {
  const values = all.values[name];
  const known = values.flatMap((value, k) => (value == null ? [] : [k]));
  if (known.length <= MOST_POINTS) return known;
  const boxes = all.groups.map((_, x) => boxOf(values, all.members[x]));
  return known.filter((k) => { const box = boxes[all.group[k]]; return !box || values[k] < box.low || values[k] > box.high; });
}

const xOf = (k) => all.group[k] + jitter(k);
const told = (k) => `${all.session[k]}<br>${all.groups[all.group[k]].label}${all.quality_marks[k] ? '<br>' + all.quality_marks[k] : ''}`;

function pointTraces(name, colour) {
  const values = all.values[name], places = pointsOf(name);
  const base = (of) => ({ type: 'scatter', mode: 'markers', x: of.map(xOf), y: of.map((k) => values[k]), customdata: of, text: of.map(told), hovertemplate: '%{text}<br>%{y:.5~g}<extra></extra>', showlegend: false });
  if (colour === 'age') {
    return [{ ...base(places), marker: { size: 5, color: places.map((k) => all.age[k] ?? 0), colorscale: 'Viridis', showscale: true, colorbar: { title: { text: 'age' }, thickness: 8 }, opacity: 0.8 } }];
  }
  if (colour === 'group') return [{ ...base(places), marker: { size: 5, color: places.map((k) => COLOURS[all.group[k] % COLOURS.length]), opacity: 0.75 } }];
  return colourClasses(colour, places).map(([title, of], k) => ({ ...base(of), name: title, showlegend: true,
    marker: { size: 5, color: title === 'marked' || title === 'closure' ? '#b00020' : COLOURS[k % COLOURS.length], opacity: 0.75 } }));
}

function layoutOf(name) {
  const figure = all.figure.get(name), few = all.groups.length <= 12;
  return { margin: { l: 58, r: 12, t: 30, b: few ? 62 : 90 }, title: { text: figure.title + (figure.unit ? ` [${figure.unit}]` : ''), font: { size: 14 }, x: 0.02 }, dragmode: 'select', hovermode: 'closest',
    xaxis: { tickvals: all.groups.map((_, x) => x), ticktext: all.groups.map((group) => `${group.label}${group.uncertain ? ' (n=' + group.n_counting + ')' : ''}`), range: [-0.6, all.groups.length - 0.4], tickangle: few ? -20 : -90, ticklabeloverflow: 'allow', tickfont: { size: few ? 11 : 8 }, zeroline: false, showgrid: false },
    yaxis: { zeroline: false, gridcolor: '#e7ebef' }, font: { family: 'system-ui, Arial, sans-serif', color: '#1d2733' }, legend: { orientation: 'h', y: -0.28, font: { size: 11 } }, paper_bgcolor: '#fff', plot_bgcolor: '#fff' };
}

/** Sessions within the box of a brush, by the data themselves: whether their points are drawn or not. */
function brushed(name, range) {
  const values = all.values[name], [left, right] = range.x, [low, high] = range.y;
  const found = [];
  for (let k = 0; k < values.length; k++) {
    const x = xOf(k), y = values[k];
    if (y != null && x >= Math.min(left, right) && x <= Math.max(left, right) && y >= Math.min(low, high) && y <= Math.max(low, high)) found.push(k);
  }
  return found;
}

function drawPanel(panel) {
  const traces = [...boxTraces(panel.name), ...levelTraces(panel.name), ...pointTraces(panel.name, byId('colour').value)];
  return Plotly.react(panel.plot, traces, layoutOf(panel.name), CONFIG);
}

function addPanel(name) {
  const plot = make('div', { class: 'plot', role: 'group', 'aria-label': `${all.figure.get(name).title} by group` });
  const panel = { name, plot, isDrawn: false, marked: [] };
  const remove = make('button', { type: 'button', 'aria-label': `Remove ${all.figure.get(name).title}`, onclick: () => { panels.splice(panels.indexOf(panel), 1); frame.remove(); followSelection(); } }, '×');
  const frame = make('div', { class: 'panel', 'data-figure': name }, plot, ...overlayOf(panel), remove);
  panels.push(panel);
  byId('panels').append(frame);
  return panel;
}

/** Draw a panel for the first time; its marks follow whenever plotly has moved or scaled its axes. */
async function openPanel(panel) {
  const { plot, name } = panel;
  await drawPanel(panel);
  panel.isDrawn = true;
  markPanel(panel);
  plot.on('plotly_afterplot', () => markPanel(panel));
  plot.on('plotly_selected', (event) => { if (event && event.range) select(brushed(name, event.range)); });
  plot.on('plotly_deselect', () => select([]));
  plot.on('plotly_click', (event) => { const k = event.points[0].customdata; if (Number.isInteger(k)) location.hash = '#session/' + all.session[k]; });
}

function followSelection() {
  for (const panel of panels) markPanel(panel);
  listSelected(byId('selected'), panels.map((panel) => panel.name));
}

const isInSight = ({ plot }) => plot.getBoundingClientRect().top < window.innerHeight;
const pause = () => new Promise((done) => setTimeout(done));

/** Panels that are in sight before the page is ready, and then the others, with time for people between them. */
async function openPanels(those) {
  for (const panel of those.filter(isInSight)) await openPanel(panel);
  return async () => { for (const panel of those) if (!panel.isDrawn) { await pause(); await openPanel(panel); } };
}

pages.groups = async () => {
  await Promise.all([sessions(), library('plotly')]);
  if (!panels.length) {
    const choice = byId('panel-figure');
    for (const sort of ['tissue', 'quality', 'scale']) {
      choice.append(make('optgroup', { label: { tissue: 'tissue values', quality: 'quality figures', scale: 'scales' }[sort] }, ...all.figures.filter((figure) => figure.sort === sort).map((figure) => make('option', { value: figure.name }, figure.title))));
    }
    byId('add-panel').addEventListener('click', () => openPanel(addPanel(choice.value)));
    byId('colour').addEventListener('change', () => panels.filter((panel) => panel.isDrawn).forEach(drawPanel));
    byId('clear').addEventListener('click', () => select([]));
    byId('search').addEventListener('input', (event) => {
      const text = event.target.value.trim();
      select(text ? all.session.flatMap((name, k) => (name.includes(text) || all.person[k].includes(text) ? [k] : [])) : []);
    });
    byId('panels').classList.toggle('many', all.groups.length > 12);
    followers.add(followSelection);
    const others = await openPanels(['WM_T1map_median', 'GM_T1map_median', 'WM_T2map_median', 'T1w_snr'].map(addPanel));
    others().catch((error) => problem(error.message));
    followSelection();
  }
};
