// Compare: two sessions, or one in two snapshots, with one crosshair, and the difference where they share a grid.
async function differenceOf(left, right) {
  const [one, other] = [left.volumes[0], right.volumes[0]];
  if (!one || !other || one.dims.join() !== other.dims.join()) return null;
  const made = one.clone();
  made.img = Float32Array.from(one.img, (value, k) => other.img[k] - value);
  return made;
}

pages.compare = async (first = '', second = '', snapshot = '') => {
  await sessions();
  const place = byId('compare');
  const field = (id, title, value, list) => make('label', {}, title + ' ', make('input', { id, value, list, size: 18, spellcheck: 'false', autocomplete: 'off' }));
  const names = make('select', { id: 'compare-volume', 'aria-label': 'Volume' }, ...SHOWN_FIRST.map((name) => make('option', { value: name }, name)));
  const views = ['first', 'second', 'difference'].map((title) => make('div', {}, make('p', { class: 'soft' }, title), make('div', { class: 'viewer' }), make('p', { class: 'readout' })));
  const go = () => { location.hash = `#compare/${byId('compare-first').value}/${byId('compare-second').value || byId('compare-first').value}/${byId('compare-snapshot').value}`; };
  place.replaceChildren(make('div', { class: 'controls' }, field('compare-first', 'First', first, 'known-sessions'), field('compare-second', 'Second', second, 'known-sessions'), field('compare-snapshot', 'Snapshot of the second', snapshot), names, make('button', { type: 'button', onclick: go }, 'Compare')),
    make('p', { class: 'soft' }, 'Without another snapshot, both are of this one. The difference is second less first, voxel by voxel on the grid of their group: sessions of one person are not laid on each other.'), make('div', { class: 'pair' }, ...views));
  if (!first || !second) return null;
  const of = [[SNAPSHOT, first], [snapshot || SNAPSHOT, second]];
  const data = await Promise.all(of.map(([at, session]) => load(`session/${session}.json`, at)));
  const viewers = [];
  let name = names.value;
  const say = (k) => () => { const nv = viewers[k]; if (!nv) return; const at = valuesAt(nv, name, []); views[k].querySelector('.readout').textContent = readoutText(k === 2 ? `${name} difference` : name, at); };
  for (const [k, view] of views.entries()) viewers[k] = await makeViewer(view.querySelector('.viewer'), say(k));
  for (const nv of viewers) nv.broadcastTo(viewers.filter((other) => other !== nv), { '2d': true, '3d': true });
  const show = async () => {
    name = names.value;
    await Promise.all([0, 1].map((k) => showVolume(viewers[k], ...of[k], name, data[k].volumes.filter((one) => !one.endsWith('_sd')), '')));
    for (const old of [...viewers[2].volumes]) viewers[2].removeVolume(old);
    const made = await differenceOf(viewers[0], viewers[1]);
    views[2].querySelector('p').textContent = made ? 'difference' : 'difference: the two are not on one grid';
    if (made) {
      const most = (WINDOWS[name] || [0, 1])[1] / 5;
      Object.assign(made, { cal_min: 0, cal_max: most, colormapNegative: 'winter' }); made.colormap = 'warm';
      viewers[2].addVolume(made);
      viewers[2].updateGLVolume();
    }
    body.dataset.volume = name;
  };
  names.addEventListener('change', show);
  await show();
  return () => viewers.forEach((nv) => { const lost = nv.gl.getExtension('WEBGL_lose_context'); if (lost) lost.loseContext(); });
};
