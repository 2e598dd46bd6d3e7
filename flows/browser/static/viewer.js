// Viewer: three planes of a volume, what lies on it, and what is at the crosshair.
const UNITS = { T1map: [1000, 'ms'], T2map: [1000, 'ms'], PDmap: [1, ''], T1map_sd: [1000, 'ms'], T2map_sd: [1000, 'ms'], PDmap_sd: [1, ''] };
const WINDOWS = { T1map: [0.3, 2.5], T2map: [0.03, 0.2], PDmap: [0.55, 1.05], T1map_sd: [0, 0.2], T2map_sd: [0, 0.05], PDmap_sd: [0, 0.1], residual: [0, 0.3], tissue: [0, 3], brain_mask: [0, 1] };
const SHOWN_FIRST = ['T1map', 'T2map', 'PDmap', 'T1w', 'T2w', 'FLAIR', 'residual', 'tissue', 'T1map_sd', 'T2map_sd', 'PDmap_sd', 'brain_mask'];

const buffers = new Map();
function volumeOf(snapshot, session, name) {
  const key = `${snapshot}/volume/${session}/${name}.nii`;
  if (!buffers.has(key)) {
    if (buffers.size > 8) buffers.delete(buffers.keys().next().value);
    buffers.set(key, fetched('at/' + key).then((answer) => answer.arrayBuffer()));
  }
  return buffers.get(key);
}

let viewerScript = null;
function viewerLibrary() {
  viewerScript ||= new Promise((done, failed) => document.head.append(make('script', { src: 'static/niivue.js', onload: done, onerror: () => failed(new Error('the viewer of volumes could not be loaded')) })));
  return viewerScript;
}

/** A viewer in a place: it shows one volume of one session, what lies on it, and says what is at the crosshair. */
async function makeViewer(place, say) {
  await viewerLibrary();
  const canvas = make('canvas', { 'aria-label': 'Three planes of a volume', tabindex: 0 });
  place.replaceChildren(canvas);
  const nv = new niivue.Niivue({ backColor: [0, 0, 0, 1], crosshairColor: [1, 0.75, 0.1, 0.9], crosshairWidth: 0.6, show3Dcrosshair: false, isRadiologicalConvention: true, isColorbar: true, dragAndDropEnabled: false, loadingText: 'loading', sagittalNoseLeft: true });
  await nv.attachToCanvas(canvas);
  if (!nv.gl) throw new Error('this browser has no WebGL 2, which volumes need');
  nv.setSliceType(nv.sliceTypeMultiplanar);
  nv.setMultiplanarLayout(2);
  nv.opts.multiplanarShowRender = 0;
  nv.setInterpolation(true);
  nv.onLocationChange = (data) => say(data);
  return nv;
}

async function imageOf(snapshot, session, name, options) {
  const buffer = await volumeOf(snapshot, session, name);
  const image = await niivue.NVImage.loadFromUrl({ url: buffer.slice(0), name: `${name}.nii`, colormap: options.colormap || 'gray', opacity: options.opacity ?? 1 });
  if (WINDOWS[name]) [image.cal_min, image.cal_max] = WINDOWS[name];
  else image.cal_min = Math.max(0, image.cal_min);
  return image;
}

/** Voxels of labels that have a neighbour of another label; 85 levels apart, so that tissues differ in colour. */
function outlineOf(labels, [nx, ny, nz]) {
  const border = new labels.constructor(labels.length), of = (k) => (labels[k] === 255 ? 0 : labels[k]);
  const steps = [[1, nx, 1], [nx, ny, nx], [nx * ny, nz, nx * ny]];
  for (let k = 0; k < labels.length; k++) {
    const label = of(k);
    if (!label) continue;
    for (const [step, size, stride] of steps) {
      const at = Math.floor(k / stride) % size;
      if ((at > 0 && of(k - step) !== label) || (at + 1 < size && of(k + step) !== label)) { border[k] = 85 * label; break; }
    }
  }
  return border;
}

async function outlineImage(snapshot, session, name) {
  const image = await imageOf(snapshot, session, name, { colormap: name === 'tissue' ? 'warm' : 'green', opacity: 0.9 });
  image.img = outlineOf(image.img, image.hdr.dims.slice(1, 4));
  [image.cal_min, image.cal_max] = [0, name === 'tissue' ? 255 : 85];
  return image;
}

/** Show a volume; with it, unseen, its deviation, and the outline of the mask or of tissues. */
async function showVolume(nv, snapshot, session, name, volumes, outline) {
  const before = nv.volumes.length ? [...nv.scene.crosshairPos] : null;
  const wanted = [await imageOf(snapshot, session, name, { colormap: name.includes('map') || name === 'residual' ? 'inferno' : 'gray' })];
  if (volumes.includes(`${name}_sd`)) wanted.push(await imageOf(snapshot, session, `${name}_sd`, { opacity: 0 }));
  if (outline && volumes.includes(outline)) wanted.push(await outlineImage(snapshot, session, outline));
  for (const old of [...nv.volumes]) nv.removeVolume(old);
  for (const image of wanted) nv.addVolume(image);
  if (wanted.length > 1) for (let k = 1; k < wanted.length; k++) wanted[k].colorbarVisible = false;
  nv.updateGLVolume();
  if (before) nv.scene.crosshairPos = before;
  nv.drawScene();
  nv.createOnLocationChange();
}

/** What the volumes hold at the crosshair, by the voxel of the store: its x, y, z and values in the unit of people. */
function valuesAt(nv, name, volumes) {
  if (!nv.volumes.length) return null;
  const first = nv.volumes[0];
  const [x, y, z] = nv.frac2vox(nv.scene.crosshairPos, 0);
  const at = (image) => image.getValue(x, y, z);
  const [factor, unit] = UNITS[name] || [1, ''];
  const value = at(first) * factor;
  const deviation = volumes.includes(`${name}_sd`) && nv.volumes[1] ? at(nv.volumes[1]) * factor : null;
  return { voxel: [x, y, z].map(Math.round), value, deviation, unit };
}

function readoutText(name, at) {
  if (!at) return '';
  const number = Number.isFinite(at.value) ? `${shown(at.value, 5)}${at.deviation != null && Number.isFinite(at.deviation) ? ' ± ' + shown(at.deviation, 3) : ''} ${at.unit}` : 'not computed';
  return `voxel x ${at.voxel[0]}, y ${at.voxel[1]}, z ${at.voxel[2]}   ${name} ${number}`;
}
