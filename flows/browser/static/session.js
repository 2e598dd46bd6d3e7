// Session: three planes of one volume at a time with crosshair and values, and everything that is known of it.
function facts(data) {
  const person = data.people, parts = [
    ['group', `${data.group} (${data.key})`], ['status', `${data.status}${data.reason !== '-' ? ': ' + data.reason : ''}; ${data.counts}`],
    ['person', `${data.person}, ${person.sex || 'sex unknown'}, ${person.age == null ? 'age unknown' : person.age + ' years'}, day ${shown(person.day)}${person.scanner_day == null ? '' : `, day ${person.scanner_day} of the scanner`}`], ['marks', data.marks || 'none'], ['why', data.why || '–']];
  if (data.explanation) parts.push(['explanation', data.explanation]);
  if (data.failure) {
    parts.push(['what to do', data.failure.meaning + (data.failure.known ? ` It is ${data.failure.known}.` : '')]);
    if (data.failure.command) parts.push(['try again', make('code', {}, data.failure.command)]);
  }
  const list = make('dl', {}, ...parts.flatMap(([name, text]) => [make('dt', {}, name), make('dd', {}, text)]));
  const blocks = [list];
  if (data.same_person.length) blocks.push(make('p', {}, 'The same person: ', ...data.same_person.flatMap(([session, day]) => [link(session), ` (day ${shown(day)}`, ...(IS_OFFLINE ? [] : [', ', make('a', { href: `#compare/${data.session}/${session}` }, 'compare')]), ') '])));
  if (data.decisions.length) blocks.push(table('Decisions on it and on its group', ['on', 'scope', 'verdict', 'reasons', 'rater'], data.decisions));
  if (data.remarks.length) blocks.push(table('Remarks', ['about', 'what', 'what to do'], data.remarks));
  if (data.series.length) blocks.push(table('What was decided on each series', ['series', 'decision', 'why'], data.series));
  blocks.push(table('Figures', ['figure', 'value', 'unit'], data.figures.filter((row) => row[1] != null).map(([title, value, unit]) => [title, shown(value, 5), unit])));
  blocks.push(table('Provenance', ['what', 'value'], data.provenance));
  if (!IS_OFFLINE) blocks.push(historyOf(data.session));
  return blocks;
}

/** Commits that changed the session; asked for when they are opened, since they are looked for in the whole history. */
function historyOf(session) {
  const place = make('div', {}, make('p', { class: 'soft' }, 'looking through the commits …'));
  const details = make('details', { id: 'history' }, make('summary', {}, 'History: commits that changed it'), place);
  const at = (id) => (id === SNAPSHOT ? make('span', { class: 'key' }, id) : make('a', { class: 'key', href: `?at=${id}#session/${session}` }, id));
  details.addEventListener('toggle', () => load(`history/${session}.json`)
    .then((rows) => place.replaceChildren(table('The newest first; a snapshot opens the session as it was', ['time', 'what was done', 'snapshot'], rows.map(([time, message, id]) => [time, message, at(id)]))))
    .catch((error) => problem(error.message)), { once: true });
  return details;
}

function planesOf(data) {
  const pictures = data.pictures || {};
  return Object.keys(pictures).map((name) => make('figure', {}, make('figcaption', {}, name), make('div', { class: 'planes' }, ...pictures[name].map((source, k) => make('img', { src: source, alt: `${name}, ${['axial', 'coronal', 'sagittal'][k]}` })))));
}

pages.session = async (session) => {
  const place = byId('session');
  place.replaceChildren(make('p', {}, 'loading …'));
  const [data] = await Promise.all([load(`session/${session}.json`), sessions()]);
  const order = wallOrder('score'), at = order.indexOf(all.place.get(session));
  const step = (by) => { const k = order[at + by]; if (at >= 0 && k !== undefined) location.hash = '#session/' + all.session[k]; };
  const volumes = SHOWN_FIRST.filter((name) => data.volumes.includes(name));
  const heading = make('div', { class: 'controls' }, make('h2', {}, session), make('button', { type: 'button', onclick: () => step(-1), disabled: at <= 0 }, '← farther'), make('button', { type: 'button', onclick: () => step(1), disabled: at < 0 || at + 1 >= order.length }, 'nearer →'),
    CAN_DECIDE ? make('button', { type: 'button', id: 'decide-session', onclick: () => askDecision([session]) }, 'Decide') : null);
  if (IS_OFFLINE || !volumes.length) {
    place.replaceChildren(heading, make('div', { class: 'split' }, make('div', {}, ...(IS_OFFLINE ? planesOf(data) : [make('p', { class: 'note' }, 'No volume of it is stored.')])), make('div', {}, ...facts(data))));
    return null;
  }
  const readout = make('p', { class: 'readout', id: 'readout', 'aria-live': 'off' }), frame = make('div', { class: 'viewer' });
  const choice = make('div', { class: 'controls', role: 'group', 'aria-label': 'Volume' }), outline = make('select', { id: 'outline', 'aria-label': 'Shown on it' }, ...[['', 'nothing'], ['brain_mask', 'outline of the brain mask'], ['tissue', 'outlines of tissues']].map(([value, title]) => make('option', { value }, title)));
  place.replaceChildren(heading, make('div', { class: 'split' }, make('div', {}, choice, frame, readout, make('div', { class: 'controls' }, make('label', {}, 'On it ', outline), make('span', { class: 'soft' }, make('kbd', {}, '1'), ' … ', make('kbd', {}, String(Math.min(9, volumes.length))), ' volume, ', make('kbd', {}, 'o'), ' outlines, ', make('kbd', {}, 'n'), ' ', make('kbd', {}, 'p'), ' next session', CAN_DECIDE ? ', ' : '', ...(CAN_DECIDE ? [make('kbd', {}, 'a'), ' ', make('kbd', {}, 'r'), ' ', make('kbd', {}, 'u'), ' accept, reject, unsure, ', make('kbd', {}, 'z'), ' undo'] : [])))), make('div', {}, ...facts(data))));
  let name = volumes[0];
  volumeFrom(volumePath(SNAPSHOT, session, name)).catch(() => {});  // on its way while the viewer is made; `show` says what fails
  const read = follower((voxel) => valueAt(SNAPSHOT, session, name, voxel), (voxel, found) => { readout.textContent = readoutText(name, voxel, found); });
  const nv = await viewerIn(frame, 0, (moved) => read(voxelAt(moved, data.grid)));
  window.qmriViewer = nv;
  const show = async (wanted) => {
    name = wanted;
    for (const button of choice.children) button.setAttribute('aria-pressed', String(button.textContent === name));
    body.removeAttribute('data-volume');
    await showVolume(nv, SNAPSHOT, session, name, volumes, outline.value);
    body.dataset.volume = name;
  };
  choice.append(...volumes.map((wanted) => make('button', { type: 'button', 'aria-pressed': 'false', onclick: () => show(wanted).catch((error) => problem(error.message)) }, wanted)));
  outline.addEventListener('change', () => show(name));
  const keys = (event) => {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    const verdict = { a: 'accept', r: 'reject', u: 'unsure', e: 'exclude', k: 'acknowledge', z: 'undo' }[event.key];
    if (/^[1-9]$/.test(event.key) && volumes[event.key - 1]) show(volumes[event.key - 1]);
    else if (event.key === 'o') { outline.selectedIndex = (outline.selectedIndex + 1) % outline.options.length; show(name); }
    else if (event.key === 'n') step(1);
    else if (event.key === 'p') step(-1);
    else if (verdict && CAN_DECIDE) { event.preventDefault(); askDecision([session], verdict); }
  };
  document.addEventListener('keydown', keys);
  await show(name);
  return () => { document.removeEventListener('keydown', keys); emptyViewers([nv]); };
};
