// Drift: individuals and moving ranges, by days of the scanner; without them, the change since a person's first visit.
const DRIFT_FIGURES = ['synthesis_residual', 'T1w_scale', 'T2w_scale', 'FLAIR_scale', 'T1w_contrast', 'T2w_contrast', 'FLAIR_contrast', 'T1w_snr', 'T2w_snr', 'FLAIR_snr', 'T1w_sharpness', 'T2w_sharpness', 'FLAIR_sharpness', 'WM_T1map_median', 'WM_T2map_median', 'GM_T1map_median'];

const LEAST_CHANGES = 4;

/** Whether a group has days of its scanner, of enough sessions. */
const hasScannerDays = (group) => all.members[group].filter((k) => all.scanner_day[k] != null).length >= LEAST_CHANGES;

/** Sessions that count against the median of their group, in the order of the scanner's days. */
function departures(name, group) {
  const values = all.values[name];
  const members = all.members[group].filter((k) => all.counts[k] && values[k] > 0 && all.scanner_day[k] != null);
  if (!members.length) return [];
  const median = quantile(members.map((k) => values[k]).sort((a, b) => a - b), 0.5);
  return members.map((k) => ({ k, day: all.scanner_day[k], change: 100 * Math.log(values[k] / median) })).sort((a, b) => a.day - b.day || a.k - b.k);
}

/** Changes of the log of a figure since the same person's first session in the group, in the order of days. */
function changes(name, group) {
  const values = all.values[name], people = new Map();
  for (const k of all.members[group]) if (values[k] > 0 && all.day[k] != null && all.person[k]) {
    if (!people.has(all.person[k])) people.set(all.person[k], []);
    people.get(all.person[k]).push(k);
  }
  const found = [];
  for (const visits of people.values()) {
    visits.sort((a, b) => all.day[a] - all.day[b]);
    for (const k of visits.slice(1)) if (all.day[k] > all.day[visits[0]]) found.push({ k, day: all.day[k] - all.day[visits[0]], change: 100 * Math.log(values[k] / values[visits[0]]) });
  }
  return found.sort((a, b) => a.day - b.day || a.k - b.k);
}

/** Centre and limits of an individuals chart: mean moving range over 1.128 is a standard deviation (Shewhart). */
function chart(points) {
  const ranges = points.slice(1).map((point, k) => Math.abs(point.change - points[k].change));
  const mean = points.reduce((sum, point) => sum + point.change, 0) / points.length;
  const range = ranges.reduce((sum, one) => sum + one, 0) / ranges.length;
  return { mean, range, ranges, low: mean - 2.66 * range, high: mean + 2.66 * range, most: 3.267 * range };
}

const MOST_IN_TREND = 400;  // points whose pairs are compared: of more, each second, third, ...

/** Change per year by the median of pairwise slopes (Theil and Sen), and how often it has the sign of its pairs. */
function trend(points, byScanner) {
  const slopes = [], every = Math.ceil(points.length / MOST_IN_TREND), some = points.filter((_, k) => k % every === 0);
  for (let a = 0; a < some.length; a++) for (let b = a + 1; b < some.length; b++) {
    if (some[b].day !== some[a].day) slopes.push((some[b].change - some[a].change) / (some[b].day - some[a].day));
  }
  if (!byScanner) for (const point of some) slopes.push(point.change / point.day);
  if (!slopes.length) return { slope: 0, sure: 0 };
  slopes.sort((a, b) => a - b);
  const slope = 365.25 * quantile(slopes, 0.5);
  return { slope, sure: Math.abs(slopes.filter((one) => one > 0).length / slopes.length - 0.5) * 2 };
}

function drifts() {
  return all.groups.flatMap((group, place) => DRIFT_FIGURES.map((name) => {
    const byScanner = hasScannerDays(place), points = byScanner ? departures(name, place) : changes(name, place);
    return points.length < LEAST_CHANGES ? null : { place, name, points, byScanner, ...trend(points, byScanner), ...chart(points) };
  })).filter(Boolean).map((one) => ({ ...one, out: one.points.filter((point) => point.change < one.low || point.change > one.high).length }))
    .sort((a, b) => b.sure * Math.abs(b.slope) - a.sure * Math.abs(a.slope));
}

function drawDrift(one, place) {
  const figure = all.figure.get(one.name), x = one.points.map((point) => point.day);
  const software = [...new Set(one.points.map((point) => all.software[point.k]))];
  const line = (y, dash) => ({ type: 'scatter', mode: 'lines', x: [one.byScanner ? Math.min(...x) : 0, Math.max(...x)], y: [y, y], line: { color: '#7a8794', dash, width: 1 }, hoverinfo: 'skip', showlegend: false });
  const points = software.map((version, k) => {
    const of = one.points.filter((point) => all.software[point.k] === version);
    return { type: 'scatter', mode: 'markers', x: of.map((point) => point.day), y: of.map((point) => point.change), customdata: of.map((point) => point.k), text: of.map((point) => told(point.k)), hovertemplate: '%{text}<br>day %{x}: %{y:+.2f} %<extra></extra>', name: `software ${(version || 'unknown').slice(0, 8)}`, showlegend: software.length > 1,
      marker: { size: 7, color: of.map((point) => (point.change < one.low || point.change > one.high ? '#b00020' : COLOURS[k % COLOURS.length])), symbol: ['circle', 'square', 'diamond', 'cross'][k % 4] } };
  });
  const layout = (title) => ({ margin: { l: 58, r: 12, t: 30, b: 40 }, title: { text: title, font: { size: 14 }, x: 0.02 }, xaxis: { title: { text: one.byScanner ? 'days since the scanner’s first session' : 'days since the person’s first session here' }, zeroline: false }, yaxis: { ticksuffix: ' %', gridcolor: '#e7ebef', zerolinecolor: '#1d2733' }, legend: { orientation: 'h', y: -0.25 } });
  const individuals = make('div', { class: 'plot', role: 'group', 'aria-label': `Individuals chart of ${figure.title}` }), ranges = make('div', { class: 'plot low', role: 'group', 'aria-label': `Moving ranges of ${figure.title}` });
  place.replaceChildren(individuals, ranges);
  Plotly.newPlot(individuals, [line(one.mean, 'solid'), line(one.low, 'dash'), line(one.high, 'dash'), ...points], layout(`${all.groups[one.place].label}: ${figure.title}, ${one.byScanner ? 'against the median of the group' : 'change since the first visit'}`), CONFIG)
    .then(() => individuals.on('plotly_click', (event) => { const k = event.points[0].customdata; if (Number.isInteger(k)) location.hash = '#session/' + all.session[k]; }));
  Plotly.newPlot(ranges, [line(one.range, 'solid'), line(one.most, 'dash'), { type: 'scatter', mode: 'markers', x: x.slice(1), y: one.ranges, marker: { size: 6, color: '#0b5c7d' }, showlegend: false, hovertemplate: '%{y:.2f} %<extra></extra>' }], layout('Moving range'), CONFIG);
}

pages.drift = async () => {
  await Promise.all([sessions(), library('plotly')]);
  const found = drifts(), place = byId('drift');
  const without = all.groups.filter((_, k) => !hasScannerDays(k)).length;
  const advice = without ? make('p', { class: 'soft', id: 'drift-days' }, `${without} of ${all.groups.length} groups have no days of their scanner, since the store keeps none unless the site decides for it: with QMRI_KEEP_DAYS=true, the next qmri ingest keeps whole days since each scanner’s first session, also of what is stored, and every session shows here, not only those of people who come again.`) : null;
  if (!found.length) {
    place.replaceChildren(make('p', { class: 'note' }, 'No group has four or more later visits of its people, in whom alone a drift shows without days of the scanner.'), advice || '');
    return;
  }
  const plots = make('div', { id: 'drift-plots' });
  const open = (one) => make('button', { type: 'button', onclick: () => { drawDrift(one, plots); plots.scrollIntoView({ block: 'nearest' }); } }, 'show');
  place.replaceChildren(
    make('p', {}, 'By days of the scanner: every session that counts against the median of its group. Without them: changes within people, in their later visits against their first on the same scanner and protocol, so that what people differ by cancels. Dashed: limits from moving ranges (2.66 and 3.267 times their mean); red: beyond. The trend is the median of all pairs (Theil and Sen); certain, how one-sided their signs are.'),
    ...(advice ? [advice] : []), plots,
    table('Every group and figure, the strongest trend first', ['group', 'figure', 'by', 'points', 'trend per year', 'certain', 'beyond limits', 'chart'],
      found.slice(0, 200).map((one) => [all.groups[one.place].label, all.figure.get(one.name).title, one.byScanner ? 'days of the scanner' : 'people’s visits', one.points.length, `${one.slope > 0 ? '+' : ''}${shown(one.slope, 3)} %`, `${Math.round(100 * one.sure)} %`, one.out, open(one)])));
  drawDrift(found[0], plots);
};
