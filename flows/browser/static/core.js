// Data, routes and small parts of pages. Text enters pages as text alone: textContent, never innerHTML.
const body = document.body;
const SNAPSHOT = body.dataset.snapshot;
const CAN_DECIDE = body.dataset.decide === 'yes';
const IS_OFFLINE = body.dataset.offline === 'yes';
const held = IS_OFFLINE ? JSON.parse(document.getElementById('qmri-data').textContent) : null;
const kept = new Map();

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; what begins with "on" is a listener. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function problem(text) {
  const place = byId('problem');
  place.hidden = !text;
  place.textContent = text || '';
}

/** What the server says of a snapshot, or what the file holds; asked for once. */
function load(path, snapshot = SNAPSHOT) {
  const key = snapshot + '/' + path;
  if (!kept.has(key)) kept.set(key, IS_OFFLINE ? fromFile(path) : fetched(`at/${snapshot}/${path}`).then((answer) => answer.json()));
  return kept.get(key);
}

async function fromFile(path) {
  if (path in held) return held[path];
  const name = path.split('/').pop().replace('.json', '');
  if (!(held.apart || []).includes(name)) throw new Error('this file does not hold ' + name);
  await new Promise((done, failed) => {
    document.head.append(make('script', { src: `sessions/${name}.js`, onload: done, onerror: () => failed(new Error(`sessions/${name}.js does not lie beside this file`)) }));
  });
  return window.qmriSessions[name];
}

async function fetched(path, options) {
  const answer = await fetch(path, options);
  if (answer.ok) return answer;
  const text = await answer.text();
  let said = text;
  try { said = JSON.parse(text).error; } catch { /* plain text */ }
  throw new Error(said);
}

const scripts = new Map();

/** A library that this file holds, compressed; the policy of the file lets a script run that has the hash of the library. */
async function unpacked(name) {
  const bytes = Uint8Array.from(atob(byId('qmri-' + name).textContent), (one) => one.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
  document.head.append(make('script', {}, text));
}

/** A library of pages, loaded when a page first needs it. */
function library(name) {
  if (!scripts.has(name)) {
    scripts.set(name, IS_OFFLINE ? unpacked(name) : new Promise((done, failed) => {
      document.head.append(make('script', { src: `static/${name}.js`, onload: done, onerror: () => { scripts.delete(name); failed(new Error(`${name} could not be loaded: is the server still there?`)); } }));
    }));
  }
  return scripts.get(name);
}

const shown = (value, digits = 4) => (value == null || Number.isNaN(value) ? '–' : String(Number(value.toPrecision(digits))));
const code = (text) => text.replaceAll('_', ' ');
const link = (session) => make('a', { href: '#session/' + session }, session);
const isTyping = (target) => /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);

function table(caption, header, rows, kind = '') {
  const cells = (row) => row.map((cell, k) => make(k ? 'td' : 'th', k ? {} : { scope: 'row' }, cell instanceof Node ? cell : String(cell ?? '–')));
  const lines = rows.length ? rows.map((row) => make('tr', {}, ...cells(row))) : [make('tr', {}, make('td', { colspan: header.length }, 'none'))];
  return make('div', { class: 'scroll' }, make('table', { class: kind }, make('caption', {}, caption),
    make('thead', {}, make('tr', {}, ...header.map((title) => make('th', { scope: 'col' }, title)))), make('tbody', {}, ...lines)));
}

const pages = {};  // by name: what draws it, given what follows its name in the address
let leave = null;  // what the page that is shown does when another one comes

async function route() {
  const [name, ...rest] = (location.hash.slice(1) || 'overview').split('/');
  const section = byId('page-' + name) || byId('page-overview');
  if (leave) { leave(); leave = null; }
  for (const other of document.querySelectorAll('main > section')) other.hidden = other !== section;
  for (const entry of document.querySelectorAll('nav a')) {
    if (entry.dataset.page === name) entry.setAttribute('aria-current', 'page'); else entry.removeAttribute('aria-current');
  }
  document.title = `${rest[0] || section.dataset.title} – cohort browser`;
  problem('');
  body.removeAttribute('data-ready');
  try { if (pages[name]) leave = (await pages[name](...rest)) || null; } catch (error) { problem(error.message); }
  body.dataset.ready = location.hash || '#overview';
  window.scrollTo(0, 0);
}
