// Viewer: three planes of a volume, what lies on it, and what is at the crosshair.
const UNITS = { T1map: [1000, 'ms'], T2map: [1000, 'ms'], PDmap: [1, ''], T1map_sd: [1000, 'ms'], T2map_sd: [1000, 'ms'], PDmap_sd: [1, ''] };
const SHOWN_FIRST = ['T1map', 'T2map', 'PDmap', 'T1w', 'T2w', 'FLAIR', 'residual', 'tissue', 'T1map_sd', 'T2map_sd', 'PDmap_sd', 'brain_mask'];

const DIFFERENCE = 'difference', DIFFERENCE_COLOURS = { R: [90, 0, 0, 190, 255], G: [200, 60, 0, 60, 190], B: [255, 190, 0, 0, 60], A: [255, 255, 255, 255, 255], I: [0, 80, 128, 176, 255] };  // less is blue, none black, more orange
const MOST_BUFFERS = 8;
const buffers = new Map();  // volumes that have travelled, by path
function volumeFrom(path) {
  if (!buffers.has(path)) {
    if (buffers.size > MOST_BUFFERS) buffers.delete(buffers.keys().next().value);
    buffers.set(path, fetched('at/' + path).then((answer) => answer.arrayBuffer()).catch((error) => { buffers.delete(path); throw error; }));
  }
  return buffers.get(path);
}

const viewers = [];  // made once and moved from page to page, each in a frame of its own: making one takes long

/** Where viewers are while no page has them, since they cannot draw without a size. */
const parked = make('div', { class: 'parked', inert: true });
body.append(parked);

async function newViewer() {
  await library('niivue');
  const canvas = make('canvas', { 'aria-label': 'Three planes of a volume', tabindex: 0 }), frame = make('div', { class: 'frame' }, canvas);
  parked.append(frame);
  const nv = new niivue.Niivue({ backColor: [0, 0, 0, 1], crosshairColor: [1, 0.75, 0.1, 0.9], crosshairWidth: 0.6, show3Dcrosshair: false, isRadiologicalConvention: true, isColorbar: true, dragAndDropEnabled: false, loadingText: 'loading', sagittalNoseLeft: true, logLevel: 'error' });
  await nv.attachToCanvas(canvas);
  if (!nv.gl) throw new Error('this browser has no WebGL 2, which volumes need');
  nv.setSliceType(nv.sliceTypeMultiplanar);
  nv.setMultiplanarLayout(2);
  nv.opts.multiplanarShowRender = 0;
  nv.setInterpolation(true);
  nv.addColormap(DIFFERENCE, DIFFERENCE_COLOURS);
  withoutGradients(nv);
  return { nv, frame };
}

const GRADIENT_UNITS = [6, 8];  // units of textures in which niivue makes gradients, smoothed and not
const LEFT_OUT = { drawArrays: () => {}, framebufferTextureLayer: () => {}, checkFramebufferStatus: () => WebGL2RenderingContext.FRAMEBUFFER_COMPLETE };

/** Gradients serve shaded surfaces, which are not shown here; without a graphics card they take most of the time. */
function withoutGradients(nv) {
  const { gl, blurShader } = nv;
  if (!blurShader) return;
  const refresh = nv.refreshLayers.bind(nv), texture = nv.rgbaTex.bind(nv), use = blurShader.use.bind(blurShader);
  nv.rgbaTex = (old, unit, dims, ...more) => texture(old, unit, GRADIENT_UNITS.includes(unit - gl.TEXTURE0) ? [3, 1, 1, 1] : dims, ...more);
  blurShader.use = (...context) => { use(...context); Object.assign(gl, LEFT_OUT); };
  nv.refreshLayers = (...layer) => { try { refresh(...layer); } finally { for (const name in LEFT_OUT) delete gl[name]; } };
}

/** The viewer of a number, made when it is first asked for. */
function viewer(number) {
  viewers[number] ||= newViewer().catch((error) => { viewers[number] = null; throw error; });
  return viewers[number];
}

/** The viewer of a number in a place; it shows one volume of one session, and what lies on it. */
async function viewerIn(place, number, whenMoved) {
  const { nv, frame } = await viewer(number);
  place.replaceChildren(frame);
  nv.onLocationChange = () => { if (nv.volumes.length) whenMoved(nv); };
  nv.scene.crosshairPos = [0.5, 0.5, 0.5];
  return nv;
}

/** What a page does with its viewers when it is left: none shows, or says, what was of another session. */
function emptyViewers(used) {
  body.removeAttribute('data-volume');
  for (const nv of used) {
    parked.append(nv.canvas.parentElement);
    nv.onLocationChange = () => {};
    nv.broadcastTo([]);
    [nv.volumes, nv.overlays, nv.back] = [[], [], null];
    nv.drawScene();
  }
}

async function imageFrom(path, name, options) {
  const buffer = await volumeFrom(path);
  return niivue.NVImage.loadFromUrl({ url: buffer, name: `${name}.nii`, colormap: 'gray', ...options });
}

const volumePath = (snapshot, session, name) => `${snapshot}/volume/${session}/${name}.nii`;
const imageOf = (snapshot, session, name, options) => imageFrom(volumePath(snapshot, session, name), name, options);

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

/** Show a volume, and on it the outline of the mask or of tissues. */
async function showVolume(nv, snapshot, session, name, volumes, outline) {
  const wanted = [await imageOf(snapshot, session, name, { colormap: name.includes('map') || name === 'residual' ? 'inferno' : 'gray' })];
  if (outline && volumes.includes(outline)) wanted.push(Object.assign(await outlineImage(snapshot, session, outline), { colorbarVisible: false }));
  showImages(nv, wanted);
}

/** Images in a viewer, the crosshair where it was; all at once, since each change makes its textures anew. */
function showImages(nv, images) {
  const before = [...nv.scene.crosshairPos];
  nv.volumes = images.slice(0, -1);
  nv.addVolume(images.at(-1));
  nv.scene.crosshairPos = before;
  nv.drawScene();
  nv.createOnLocationChange();
}

/** The voxel of the store (x, y, z) at the crosshair; a volume may hold only every second one, or third. */
function voxelAt(nv, { shape, every }) {
  const { dims } = nv.volumes[0].hdr;
  return shape.map((size, k) => Math.min(size - 1, Math.max(0, Math.round((nv.scene.crosshairPos[k] * dims[k + 1] - 0.5) * every[k]))));
}

/** What the store itself holds at a voxel, since what travels to the viewer is rounded. */
const valueAt = (snapshot, session, name, voxel) => fetched(`at/${snapshot}/value/${session}/${name}/${voxel.join('/')}.json`).then((answer) => answer.json());

/** Says the voxel at once, and its value when it is there; while the crosshair moves only the newest is asked for. */
function follower(ask, say) {
  let newest = null, isAsking = false;
  return async (voxel) => {
    newest = voxel;
    say(voxel, null);
    if (isAsking) return;
    isAsking = true;
    try {
      for (let asked = null; asked !== newest;) {
        asked = newest;
        const found = await ask(asked);
        if (asked === newest) say(asked, found);
      }
    } catch (error) { problem(error.message); } finally { isAsking = false; }
  };
}

/** In the unit of people; null: asked for and not there yet. */
function readoutText(name, voxel, found) {
  const [factor, unit] = UNITS[name.split(' ')[0]] || [1, ''], has = (one) => one != null;
  const number = !found ? '…' : !has(found.value) ? 'not computed'
    : `${shown(found.value * factor, 5)}${has(found.deviation) ? ' ± ' + shown(found.deviation * factor, 3) : ''} ${unit}`;
  return `voxel x ${voxel[0]}, y ${voxel[1]}, z ${voxel[2]}   ${name} ${number}`;
}
