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
window.addEventListener('hashchange', route);
route().then(() => {
  const said = sessionStorage.getItem('qmri-told');
  if (said) { sessionStorage.removeItem('qmri-told'); problem(said); }
  const ahead = () => library('plotly').then(() => library('niivue')).catch(() => {});  // a page that needs one says so
  setTimeout(ahead, 1500);
});
