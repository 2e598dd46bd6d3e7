// Marks: the selected sessions over a panel, drawn apart from it: plotly would draw all of the panel again.
const RADIUS = 4.5, NEAR = 7;  // pixels: of a mark, and between a pointer and the mark that it means

/** Selected sessions that have a value within the axes of a drawn panel, and where they lie in it, in pixels. */
function markedIn({ plot, name }) {
  const { xaxis, yaxis } = plot._fullLayout, values = all.values[name];
  const marked = [];
  for (const k of selection) {
    const x = xaxis.l2p(xOf(k)), y = values[k] == null ? NaN : yaxis.l2p(values[k]);
    if (x >= 0 && x <= xaxis._length && y >= 0 && y <= yaxis._length) marked.push({ k, x: x + xaxis._offset, y: y + yaxis._offset });
  }
  return marked;
}

function markPanel(panel) {
  if (!panel.isDrawn) return;
  panel.marked = markedIn(panel);
  panel.hint.hidden = true;
  const { marks, plot } = panel, scale = window.devicePixelRatio || 1;
  [marks.width, marks.height] = [plot.clientWidth * scale, plot.clientHeight * scale];  // which empties it
  const to = marks.getContext('2d', { willReadFrequently: true });  // by the processor: fast without a graphics card too
  to.scale(scale, scale);
  [to.fillStyle, to.strokeStyle, to.lineWidth] = ['rgba(240,165,0,.55)', '#7a2e00', 1.6];
  for (const { x, y } of panel.marked) { to.beginPath(); to.arc(x, y, RADIUS, 0, 2 * Math.PI); to.fill(); to.stroke(); }
}

/** The mark that a pointer over a panel means; undefined where a drawn point or nothing is. */
function markAt({ plot, marked }, event) {
  if (plot._hoverdata && plot._hoverdata.length) return undefined;
  const box = plot.getBoundingClientRect(), distance = ({ x, y }) => Math.hypot(x + box.left - event.clientX, y + box.top - event.clientY);
  const near = marked.filter((mark) => distance(mark) <= NEAR);
  return near.sort((a, b) => distance(a) - distance(b))[0];
}

/** The parts of a panel that lie over its plot: marks, and what the one below the pointer is. */
function overlayOf(panel) {
  panel.marks = make('canvas', { class: 'marks', 'aria-hidden': 'true' });
  panel.hint = make('div', { class: 'hint', hidden: true });
  panel.plot.addEventListener('mousemove', (event) => {
    const mark = markAt(panel, event);
    panel.hint.hidden = !mark;
    if (mark) { panel.hint.textContent = `${told(mark.k).replaceAll('<br>', ', ')}: ${shown(all.values[panel.name][mark.k], 5)}`; panel.hint.style.top = `${mark.y + 2 * NEAR}px`; }
  });
  panel.plot.addEventListener('click', (event) => { const mark = markAt(panel, event); if (mark) location.hash = '#session/' + all.session[mark.k]; });
  return [panel.marks, panel.hint];
}
