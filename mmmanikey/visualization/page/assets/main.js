'use strict';
/* What is chosen, and what happens by pointer and keyboard. */

const main = data.models[data.models.length - 1];
const sources = [...main.layers, ...main.rollouts];
const state = {
  layer: Math.max(0, main.layers.length - 1),
  query: { x: data.image.width / 2, y: data.image.height / 2 },
  cursor: { x: data.image.width / 2, y: data.image.height / 2 },
  held: false,
  head: -1,
};
const columns = data.models.map((model) =>
  new Column(model.name, model.checkpoint, 'inferno'));
const apart = data.models.length === 2
  ? new Column('Difference', `${main.name} less ${data.models[0].name}`, 'RdBu_r') : null;
const readout = document.getElementById('readout');
const switches = {};
let drawing = Promise.resolve();
let waiting = false;

function layerName(source) {
  return source.number === undefined ? source.name : `layer ${source.number}`;
}

/** Draw once everything that is drawing is done; calls in between are one. */
function render() {
  if (waiting) return;
  waiting = true;
  drawing = drawing.then(() => {
    waiting = false;
    return draw();
  }).catch((error) => {
    readout.textContent = `This page cannot be drawn: ${error.message}`;
  });
}

async function draw() {
  const source = sources[state.layer];
  if (!source) {
    readout.textContent = 'No layer is small enough for this page.';
    return;
  }
  const pairs = await Promise.all(data.models.map(async (model, i) => {
    const own = model === main ? source : partner(model, main, source);
    return { column: columns[i], model, layer: own && await Layer.open(own) };
  }));
  const fromClass = Boolean(switches.classToken?.checked);
  for (const pair of pairs) {
    if (!pair.layer) {
      pair.column.caption.textContent = 'This layer is left out, see the notes.';
      drawHeat(pair.column.stage);
      pair.column.clear();
      continue;
    }
    const { layer } = pair;
    pair.maps = [...Array(layer.maps).keys()].map((map) =>
      layer.look(state.query, map, fromClass));
    pair.mean = layer.look(state.query, -1, fromClass);
    pair.shown = state.head >= 0 && state.head < layer.maps && layer.maps > 1
      ? pair.maps[state.head] : pair.mean;
  }
  const present = pairs.filter((pair) => pair.layer);
  const high = Math.max(...present.map((pair) => largest(pair.shown)));
  const headsHigh = Math.max(...present.flatMap((pair) => pair.maps.map(largest)));
  for (const pair of present) drawStage(pair, high, fromClass);
  if (apart) drawDifference(pairs);
  for (const pair of present) {
    pair.column.showHeads(pair.layer, pair.maps, pair.mean, headsHigh, state, (head) => {
      state.head = head;
      render();
    });
    await pair.column.showKey(pair.layer, pair.layer.token(state.query));
  }
  tell(source, present, fromClass);
}

function drawStage({ column, model, layer, shown }, high, fromClass) {
  const heat = { values: shown, grid: layer.keyGrid, stride: layer.keyStride, high };
  const { context, scale, ratio } = drawHeat(column.stage, heat);
  if (switches.grid.checked) drawGrid(context, layer, scale);
  if (switches.windows.checked) drawWindows(context, layer, scale, ratio);
  const hidden = layer.wholeImage || (fromClass && layer.classToken);
  if (!hidden) {
    drawSight(context, layer, layer.token(state.query), scale, ratio);
    drawToken(context, layer.cell(state.query), layer.stride, scale, ratio);
  }
  if (state.held || hidden) {
    const cell = layer.cell(state.cursor, layer.keyGrid, layer.keyStride);
    drawToken(context, cell, layer.keyStride, scale, ratio, true);
  }
  drawSwitched(context, model, scale, ratio);
  column.legend(0, high);
  const kind = layer.number === undefined ? `all layers${layer.about && `, ${layer.about}`}`
    : `${layer.key} key, ${layer.heads} ${layer.heads === 1 ? 'head' : 'heads'}, window `
      + `${layer.window.join(' × ')}${layer.shifted ? ', shifted' : ''}`;
  const what = state.head >= 0 && layer.maps > 1 ? `head ${state.head}` : 'mean';
  column.caption.textContent = `${layerName(layer)}: ${what}; ${kind}; grid `
    + `${layer.grid.join(' × ')}, ${layer.stride} px a token`;
}

function drawSwitched(context, model, scale, ratio) {
  const { found, truth } = model.objects ?? {};
  if (switches.masks?.checked) drawObjects(context, found ?? [], scale, ratio, '#ffd23f', true);
  if (switches.boxes?.checked) drawObjects(context, found ?? [], scale, ratio, '#ffd23f');
  if (switches.truth?.checked && truth) {
    drawObjects(context, truth, scale, ratio, '#39e58c', true);
    drawObjects(context, truth, scale, ratio, '#39e58c');
  }
}

function drawDifference(pairs) {
  const [first, second] = pairs;
  if (!first.layer || !second.layer) {
    drawHeat(apart.stage);
    apart.caption.textContent = 'One of the models has this layer left out.';
    return;
  }
  const less = difference(first.layer, first.shown, second.layer, second.shown);
  const reach = largest(less.values.map(Math.abs));
  const { context, scale, ratio } = drawHeat(apart.stage,
    { ...less, low: -reach, high: reach, table: 'RdBu_r' }, 0.85);
  drawToken(context, second.layer.cell(state.query), second.layer.stride, scale, ratio);
  apart.legend(-reach, reach);
  apart.caption.textContent = `Red: more in ${main.name}; blue: less.`;
}

/** Say in words what is shown. */
function tell(source, present, fromClass) {
  const { layer } = present[present.length - 1];
  const at = layer.cell(state.query);
  const to = layer.cell(state.cursor, layer.keyGrid, layer.keyStride);
  let from = `token row ${at.row}, column ${at.column}${state.held ? ' (held)' : ''}`;
  if (layer.wholeImage) from = 'all tokens together';
  else if (fromClass && layer.classToken) from = 'class token';
  const parts = present.map(({ column, layer: own, shown }, i) => {
    const value = own.at(shown, state.cursor);
    const number = make('b', { class: 'value', 'data-model': String(i) }, value.toFixed(4));
    // weighted by gradients, rows have no sum to speak of
    const off = own.about ? 0 : 1 - shown.reduce((sum, each) => sum + each, 0);
    const rest = off > 0.01 ? ` (${off.toFixed(2)} off the grid)` : '';
    return [i ? ', ' : '', data.models.length > 1 ? `${column.name} ` : '', number, rest];
  });
  readout.replaceChildren(`${layerName(source)}, ${from} → row ${to.row}, column `
    + `${to.column}: `, ...parts.flat());
  for (const { column } of present) {
    column.stage.setAttribute('aria-label', `${column.name}: ${readout.textContent}`);
  }
  apart?.stage.setAttribute('aria-label', `Difference: ${readout.textContent}`);
}

/** Walk to another layer. */
function walkLayers(by) {
  const next = Math.max(0, Math.min(sources.length - 1, state.layer + by));
  const input = document.querySelectorAll('#layers input')[next];
  input.checked = true;
  state.layer = next;
  render();
}

function moveTo(place) {
  state.cursor = place;
  if (!state.held) state.query = place;
  render();
}

function hold(place) {
  const layer = sources[state.layer];
  if (!layer) return;
  const same = (a, b) => Math.floor(a / layer.stride) === Math.floor(b / layer.stride);
  const again = same(place.x, state.query.x) && same(place.y, state.query.y);
  state.held = !(state.held && again);
  state.query = place;
  moveTo(place);
}

const steps = {
  ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0],
};

function pressed(event) {
  const source = sources[state.layer];
  if (!source || event.altKey || event.ctrlKey || event.metaKey) return;
  const fine = state.held && source.keyStride ? source.keyStride : source.stride;
  if (event.key in steps) {
    const [right, down] = steps[event.key];
    const along = (at, by, side) => {
      const last = Math.ceil(side / fine) - 1;
      const next = Math.max(0, Math.min(last, Math.floor(at / fine) + by));
      return (next + 0.5) * fine;
    };
    moveTo({
      x: along(state.cursor.x, right, data.image.width),
      y: along(state.cursor.y, down, data.image.height),
    });
  } else if (event.key === 'PageUp') walkLayers(-1);
  else if (event.key === 'PageDown') walkLayers(1);
  else if (event.key === 'Enter' || event.key === ' ') hold(state.cursor);
  else if (event.key === 'Escape') {
    state.held = false;
    moveTo(state.cursor);
  } else return;
  event.preventDefault();
}

function listen(stage) {
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    const inside = (at, side) => Math.max(0, Math.min(side - 0.01, at));
    return {
      x: inside(((event.clientX - box.left) / box.width) * data.image.width, data.image.width),
      y: inside(((event.clientY - box.top) / box.height) * data.image.height, data.image.height),
    };
  };
  stage.addEventListener('pointermove', (event) => moveTo(place(event)));
  stage.addEventListener('click', (event) => hold(place(event)));
  stage.addEventListener('keydown', pressed);
}

function chip(parent, type, attributes, text, change) {
  const input = make('input', { type, ...attributes });
  input.addEventListener('change', change);
  parent.append(make('label', { class: 'chip' }, input, make('span', {}, text)));
  return input;
}

function build() {
  const names = data.models.map((model) => model.name).join(' and ');
  document.title = `Attention: ${names}`;
  document.getElementById('title').textContent = names;
  document.getElementById('subtitle').textContent =
    `${data.image.name}, ${data.image.width} × ${data.image.height} px`;
  const layers = document.getElementById('layers');
  sources.forEach((source, i) => {
    const text = source.number === undefined ? source.name : String(source.number);
    const attributes = { name: 'layer', checked: i === state.layer, 'aria-label': layerName(source) };
    chip(layers, 'radio', attributes, text, () => {
      state.layer = i;
      render();
    });
  });
  const wanted = [['grid', 'grid', true], ['windows', 'all windows', false]];
  const objects = data.models.map((model) => model.objects ?? {});
  if (objects.some((each) => each.found)) {
    wanted.push(['boxes', 'detections', false]);
    const masked = objects.some((each) => each.found?.some((one) => one.outlines.length));
    if (masked) wanted.push(['masks', 'masks', false]);
  }
  if (objects.some((each) => each.truth)) wanted.push(['truth', 'ground truth', false]);
  if (sources.some((source) => source.classToken)) {
    wanted.push(['classToken', 'from the class token', false]);
  }
  for (const [name, text, checked] of wanted) {
    switches[name] = chip(document.getElementById('switches'), 'checkbox', { checked }, text, render);
  }
  for (const column of [...columns, ...(apart ? [apart] : [])]) {
    document.getElementById('stages').append(column.top);
    if (column !== apart) document.getElementById('details').append(column.bottom);
    listen(column.stage);
  }
  // which keeps heads and keys below their pictures
  if (apart) document.getElementById('details').append(make('div'));
  const notes = document.getElementById('notes');
  notes.hidden = !data.notes.length;
  notes.querySelector('ul').append(...data.notes.map((note) => make('li', {}, note)));
}

async function start() {
  if (!('DecompressionStream' in window)) {
    readout.textContent = 'This browser is too old for the page: it needs DecompressionStream '
      + '(Chrome 80, Firefox 113, Safari 16.4 or newer).';
    return;
  }
  build();
  await loadPictures();
  new ResizeObserver(render).observe(document.body);
  render();
}

start().catch((error) => {
  readout.textContent = `This page cannot be drawn: ${error.message}`;
});
