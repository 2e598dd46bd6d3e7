// Drift: individuals and moving ranges over visits. Without days of the scanner, the change since a person's first visit.
const DRIFT_FIGURES = ['T1w_scale', 'T2w_scale', 'FLAIR_scale', 'T1w_contrast', 'T2w_contrast', 'FLAIR_contrast', 'T1w_snr', 'T2w_snr', 'FLAIR_snr', 'T1w_sharpness', 'T2w_sharpness', 'FLAIR_sharpness', 'WM_T1map_median', 'WM_T2map_median', 'GM_T1map_median'];

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

/** Change per year by the median of pairwise slopes (Theil and Sen), and how often it has the sign of its pairs. */
function trend(points) {
  const slopes = [];
  for (let a = 0; a < points.length; a++) for (let b = a + 1; b < points.length && slopes.length < 200000; b++) {
    if (points[b].day !== points[a].day) slopes.push((points[b].change - points[a].change) / (points[b].day - points[a].day));
  }
  for (const point of points) slopes.push(point.change / point.day);
  slopes.sort((a, b) => a - b);
  const slope = 365.25 * quantile(slopes, 0.5);
  return { slope, sure: Math.abs(slopes.filter((one) => one > 0).length / slopes.length - 0.5) * 2 };
}

const LEAST_CHANGES = 4;

function drifts() {
  return all.groups.flatMap((group, place) => DRIFT_FIGURES.map((name) => {
    const points = changes(name, place);
    return points.length < LEAST_CHANGES ? null : { place, name, points, ...trend(points), ...chart(points) };
  })).filter(Boolean).map((one) => ({ ...one, out: one.points.filter((point) => point.change < one.low || point.change > one.high).length }))
    .sort((a, b) => b.sure * Math.abs(b.slope) - a.sure * Math.abs(a.slope));
}

function drawDrift(one, place) {
  const figure = all.figure.get(one.name), x = one.points.map((point) => point.day);
  const software = [...new Set(one.points.map((point) => all.software[point.k]))];
  const line = (y, dash) => ({ type: 'scatter', mode: 'lines', x: [0, Math.max(...x)], y: [y, y], line: { color: '#7a8794', dash, width: 1 }, hoverinfo: 'skip', showlegend: false });
  const points = software.map((version, k) => {
    const of = one.points.filter((point) => all.software[point.k] === version);
    return { type: 'scatter', mode: 'markers', x: of.map((point) => point.day), y: of.map((point) => point.change), customdata: of.map((point) => point.k), text: of.map((point) => told(point.k)), hovertemplate: '%{text}<br>day %{x}: %{y:+.2f} %<extra></extra>', name: `software ${(version || 'unknown').slice(0, 8)}`, showlegend: software.length > 1,
      marker: { size: 7, color: of.map((point) => (point.change < one.low || point.change > one.high ? '#b00020' : COLOURS[k % COLOURS.length])), symbol: ['circle', 'square', 'diamond', 'cross'][k % 4] } };
  });
  const layout = (title) => ({ margin: { l: 58, r: 12, t: 30, b: 40 }, title: { text: title, font: { size: 14 }, x: 0.02 }, xaxis: { title: { text: 'days since the person’s first session here' }, zeroline: false }, yaxis: { ticksuffix: ' %', gridcolor: '#e7ebef', zerolinecolor: '#1d2733' }, legend: { orientation: 'h', y: -0.25 } });
  const individuals = make('div', { class: 'plot', role: 'group', 'aria-label': `Individuals chart of ${figure.title}` }), ranges = make('div', { class: 'plot low', role: 'group', 'aria-label': `Moving ranges of ${figure.title}` });
  place.replaceChildren(individuals, ranges);
  Plotly.newPlot(individuals, [line(one.mean, 'solid'), line(one.low, 'dash'), line(one.high, 'dash'), ...points], layout(`${all.groups[one.place].label}: ${figure.title}, change since the first visit`), CONFIG)
    .then(() => individuals.on('plotly_click', (event) => { const k = event.points[0].customdata; if (Number.isInteger(k)) location.hash = '#session/' + all.session[k]; }));
  Plotly.newPlot(ranges, [line(one.range, 'solid'), line(one.most, 'dash'), { type: 'scatter', mode: 'markers', x: x.slice(1), y: one.ranges, marker: { size: 6, color: '#0b5c7d' }, showlegend: false, hovertemplate: '%{y:.2f} %<extra></extra>' }], layout('Moving range'), CONFIG);
}

pages.drift = async () => {
  await sessions();
  const found = drifts(), place = byId('drift');
  if (!found.length) {
    place.replaceChildren(make('p', { class: 'note' }, 'No group has four or more later visits of its people. The store keeps no dates, only days since each person’s first session, so a drift shows in people who come again.'));
    return;
  }
  const plots = make('div', { id: 'drift-plots' });
  const open = (one) => make('button', { type: 'button', onclick: () => { drawDrift(one, plots); plots.scrollIntoView({ block: 'nearest' }); } }, 'show');
  place.replaceChildren(
    make('p', {}, 'Changes within people, in their later visits against their first on the same scanner and protocol: what people differ by cancels. Dashed: limits from moving ranges (2.66 and 3.267 times their mean); red: beyond. The trend is the median of all pairs (Theil and Sen); certain, how one-sided their signs are.'),
    plots,
    table('Every group and figure, the strongest trend first', ['group', 'figure', 'later visits', 'trend per year', 'certain', 'beyond limits', 'chart'],
      found.slice(0, 200).map((one) => [all.groups[one.place].label, all.figure.get(one.name).title, one.points.length, `${one.slope > 0 ? '+' : ''}${shown(one.slope, 3)} %`, `${Math.round(100 * one.sure)} %`, one.out, open(one)])));
  drawDrift(found[0], plots);
};
