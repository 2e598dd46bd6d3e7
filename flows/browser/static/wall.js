// Wall: a thumbnail of every session, read when it comes into sight; arrow keys move, Enter opens, X selects.
const WALL_IMAGES = ['T1map', 'T2map', 'PDmap', 'T1w', 'T2w', 'FLAIR', 'residual'];

function pictureOf(session, name, snapshot = SNAPSHOT) {
  return IS_OFFLINE ? ((held.pictures || {})[session] || {})[name] || '' : `at/${snapshot}/thumbnail/${session}/${name}.jpg`;
}

function wallOrder(order) {
  const places = all.session.map((_, k) => k);
  if (order === 'group') return places.sort((a, b) => all.group[a] - all.group[b] || b - a);
  return places.sort((a, b) => all.score[b] - all.score[a]);
}

const MOST_TILES = 600;

function drawWall() {
  const name = byId('wall-image').value, order = byId('wall-order').value, tiles = byId('tiles');
  const places = wallOrder(order), from = Number(byId('wall-from').value || 0);
  tiles.replaceChildren(...places.slice(from, from + MOST_TILES).map((k, index) => {
    const session = all.session[k];
    return make('a', { class: `tile${all.quality_marks[k] || all.status[k] === 'failed' ? ' marked' : ''}${all.left_out[k] ? ' out' : ''}`, href: '#session/' + session, tabindex: index ? -1 : 0, 'data-place': k, title: `${all.groups[all.group[k]].label}: ${all.why[k]}` },
      make('img', { src: pictureOf(session, name), alt: `${name} of ${session}`, loading: 'lazy' }), make('span', {}, session.slice(4)));
  }));
}

function moveOnWall(event) {
  const tile = event.target.closest('.tile');
  if (!tile) return;
  const tiles = [...byId('tiles').children], at = tiles.indexOf(tile);
  const across = tiles.filter((other) => other.offsetTop === tiles[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -at, End: tiles.length - 1 - at }[event.key];
  if (event.key === 'x') { const k = Number(tile.dataset.place); if (selection.has(k)) selection.delete(k); else selection.add(k); tile.setAttribute('aria-description', selection.has(k) ? 'selected' : ''); select([...selection]); }
  if (step === undefined) return;
  event.preventDefault();
  const next = tiles[Math.max(0, Math.min(tiles.length - 1, at + step))];
  tile.tabIndex = -1; next.tabIndex = 0; next.focus();
}

pages.wall = async () => {
  await sessions();
  if (byId('tiles')) return;
  const parts = [];
  for (let from = 0; from < all.session.length; from += MOST_TILES) parts.push(make('option', { value: from }, `${from + 1} to ${Math.min(from + MOST_TILES, all.session.length)}`));
  const choice = (id, title, options) => make('label', {}, title + ' ', make('select', { id, onchange: drawWall }, ...options));
  byId('wall').replaceChildren(
    make('div', { class: 'controls' }, choice('wall-image', 'Image', WALL_IMAGES.filter((name) => !IS_OFFLINE || Object.values(held.pictures).some((one) => name in one)).map((name) => make('option', { value: name }, name))),
      choice('wall-order', 'Order', [make('option', { value: 'score' }, 'farthest first'), make('option', { value: 'group' }, 'by group')]), choice('wall-from', 'Sessions', parts)),
    make('p', { class: 'soft' }, 'Axial slices through the middle of the volume, the patient’s right on the left. Orange: marked or failed; faded: counts for nothing. ', make('kbd', {}, '←↑↓→'), ' move, ', make('kbd', {}, 'Enter'), ' opens, ', make('kbd', {}, 'x'), ' selects for the other pages.'),
    make('div', { id: 'tiles', onkeydown: moveOnWall }));
  drawWall();
};
