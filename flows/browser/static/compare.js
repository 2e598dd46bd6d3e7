// Compare: two sessions, or one in two snapshots, with one crosshair, and the difference where they share a grid.
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
  let name = names.value;
  const ask = (k, voxel) => (k < 2 ? valueAt(...of[k], name, voxel) : Promise.all([ask(0, voxel), ask(1, voxel)]).then(([one, other]) => ({ value: one.value == null || other.value == null ? null : other.value - one.value })));
  const isOneGrid = JSON.stringify(data[0].grid) === JSON.stringify(data[1].grid);
  if (!isOneGrid) views[2].querySelector('p').textContent = 'difference: the two are not on one grid';
  const used = [], grids = [data[0].grid, data[1].grid, data[0].grid];
  for (const [k, view] of views.entries()) {
    const place = view.querySelector('.readout');
    const read = follower((voxel) => ask(k, voxel), (voxel, found) => { place.textContent = readoutText(k === 2 ? `${name} difference` : name, voxel, found); });
    used[k] = await viewerIn(view.querySelector('.viewer'), k, (moved) => read(voxelAt(moved, grids[k])));
  }
  for (const nv of used) nv.broadcastTo(used.filter((other) => other !== nv), { '2d': true, '3d': true });
  const show = async () => {
    name = names.value;
    await Promise.all([0, 1].map((k) => showVolume(used[k], ...of[k], name, data[k].volumes, '')));
    if (isOneGrid) showImages(used[2], [await imageFrom(`${of[0].join('/difference/')}/${of[1].join('/')}/${name}.nii`, name, { colormap: DIFFERENCE })]);
    body.dataset.volume = name;
  };
  names.addEventListener('change', () => show().catch((error) => problem(error.message)));
  await show();
  return () => emptyViewers(used);
};
