// What every page has: the field that finds a session, and the first page.
byId('find').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = byId('find-session').value.trim();
  sessions().then(() => {
    const found = all.session.filter((name) => name.includes(text));
    if (found.length) location.hash = '#session/' + found[0]; else problem('no session of this snapshot has that in its name');
  });
});
byId('find-session').addEventListener('focus', () => sessions().then(() => {
  if (!byId('known-sessions').children.length) byId('known-sessions').append(...all.session.slice(0, 2000).map((name) => make('option', { value: name })));
}), { once: true });

/** What other pages need, while somebody reads the first: the table, libraries and the viewer. */
async function ahead() {
  await sessions();
  if (IS_OFFLINE) return;
  await library('plotly');
  await viewer(0);
}

window.addEventListener('hashchange', route);
route().then(() => {
  const said = sessionStorage.getItem('qmri-told');
  if (said) { sessionStorage.removeItem('qmri-told'); problem(said); }
  setTimeout(() => ahead().catch(() => {}), 1500);  // a page that needs what is missing says so
});
