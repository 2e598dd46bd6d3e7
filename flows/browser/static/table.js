// The table of all sessions, and which of them are selected; every plot, the list and the wall follow the selection.
let all = null;
const selection = new Set();  // places in the table
const followers = new Set();

async function sessions() {
  if (all) return all;
  const data = await load('table.json');
  data.place = new Map(data.session.map((name, k) => [name, k]));
  data.figure = new Map(data.figures.map((figure) => [figure.name, figure]));
  data.members = data.groups.map(() => []);
  data.group.forEach((group, k) => data.members[group].push(k));
  all = data;
  return data;
}

function select(places) {
  selection.clear();
  for (const place of places) selection.add(place);
  for (const follow of followers) follow();
}

const MOST_LISTED = 200;

/** The selected sessions as a table: what a brush leaves. */
function listSelected(place, figures) {
  const order = [...selection].sort((a, b) => all.score[b] - all.score[a]);
  const columns = figures.map((name) => all.figure.get(name));
  const rows = order.slice(0, MOST_LISTED).map((k) => [
    link(all.session[k]), all.groups[all.group[k]].label, shown(all.age[k]), all.sex[k] || '–', all.quality_marks[k] || '–',
    all.left_out[k] || (all.counts[k] ? 'yes' : 'no maps'), ...columns.map((figure) => shown(all.values[figure.name][k])), shown(all.score[k], 3)]);
  const more = order.length > MOST_LISTED ? `, the first ${MOST_LISTED}` : '';
  const parts = order.length ? [
    table(`${order.length} sessions are selected${more}; the farthest from their groups first`,
      ['session', 'group', 'age', 'sex', 'marks', 'counts', ...columns.map((figure) => figure.title), 'score'], rows)] : [make('p', { class: 'soft' }, 'Nothing is selected.')];
  if (order.length && CAN_DECIDE) parts.unshift(make('button', { type: 'button', id: 'decide-selected', onclick: () => askDecision(order.map((k) => all.session[k])) }, `Decide on ${order.length} selected`));
  place.replaceChildren(...parts);
}
