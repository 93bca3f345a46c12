'use strict';
/* Pictures on canvases: the image, heat over it, borders, boxes and masks. */

const tables = {};
const picture = new Image();

async function loadPictures() {
  for (const [name, packed] of Object.entries(data.colours)) {
    tables[name] = await unpack(packed);
  }
  picture.src = data.image.source;
  await picture.decode();
}

/** Give a canvas the pixels that it covers on the screen; the scale of the image. */
function fit(canvas, width = data.image.width, height = data.image.height) {
  const ratio = window.devicePixelRatio || 1;
  const across = Math.max(1, Math.round((canvas.clientWidth || 80) * ratio));
  const down = Math.max(1, Math.round((across * height) / width));
  if (canvas.width !== across || canvas.height !== down) { // which costs a new layout
    [canvas.width, canvas.height] = [across, down];
  }
  return { context: canvas.getContext('2d'), scale: across / width, ratio };
}

/** A grid of values as a canvas with a pixel for each. */
function coloured(values, [height, width], low, high, table) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  const span = high - low || 1;
  values.forEach((value, i) => {
    const level = Math.max(0, Math.min(255, Math.round(((value - low) / span) * 255)));
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = tables[table][3 * level + c];
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The image with values over it. */
function drawHeat(canvas, heat, opacity = 0.65) {
  const { context, scale, ratio } = fit(canvas);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (heat) {
    const { values, grid, stride, low = 0, high, table = 'inferno' } = heat;
    const small = coloured(values, grid, low, high, table);
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false;
    const side = stride * scale;
    context.drawImage(small, 0, 0, grid[1] * side, grid[0] * side);
    context.globalAlpha = 1;
  }
  return { context, scale, ratio };
}

/** Lines between tokens that `apart` tells from each other. */
function strokeBorders(context, layer, scale, apart) {
  const [height, width] = layer.grid;
  const side = layer.stride * scale;
  context.beginPath();
  for (let row = 0; row <= height; row += 1) {
    for (let column = 0; column <= width; column += 1) {
      const token = row * width + column;
      const above = row > 0 ? token - width : -1;
      const left = column > 0 ? token - 1 : -1;
      const inside = row < height && column < width;
      const here = inside ? token : -1;
      if (column < width && apart(here, above)) {
        context.moveTo(column * side, row * side);
        context.lineTo((column + 1) * side, row * side);
      }
      const beside = column < width ? here : -1;
      if (row < height && apart(beside, left)) {
        context.moveTo(column * side, row * side);
        context.lineTo(column * side, (row + 1) * side);
      }
    }
  }
  context.stroke();
}

function drawGrid(context, layer, scale) {
  const side = layer.stride * scale;
  if (side < 4) return;
  context.lineWidth = 1;
  context.strokeStyle = 'rgba(255, 255, 255, 0.22)';
  strokeBorders(context, layer, scale, () => true);
}

function drawWindows(context, layer, scale, ratio) {
  if (!layer.sightOf) return;
  context.lineWidth = ratio;
  context.strokeStyle = 'rgba(255, 255, 255, 0.65)';
  strokeBorders(context, layer, scale, (a, b) =>
    (layer.sightOf[a] ?? -1) !== (layer.sightOf[b] ?? -1));
}

/** The border of what a token sees. */
function drawSight(context, layer, token, scale, ratio) {
  if (!layer.sightOf) return;
  const sees = (other) => other >= 0 && layer.sightOf[other] === layer.sightOf[token];
  for (const [colour, wide] of [['#000', 4], ['#fff', 2]]) {
    context.lineWidth = wide * ratio;
    context.strokeStyle = colour;
    strokeBorders(context, layer, scale, (a, b) => sees(a) !== sees(b));
  }
}

function drawToken(context, cell, stride, scale, ratio, dashed) {
  const side = stride * scale;
  for (const [colour, wide] of [['#000', 4], ['#2ee6ff', 2]]) {
    context.lineWidth = wide * ratio;
    context.strokeStyle = colour;
    context.setLineDash(dashed ? [4 * ratio, 3 * ratio] : []);
    context.strokeRect(cell.column * side, cell.row * side, side, side);
  }
  context.setLineDash([]);
}

/** Boxes or masks of objects, with their names. */
function drawObjects(context, objects, scale, ratio, colour, masks) {
  for (const object of objects) {
    context.strokeStyle = colour;
    context.fillStyle = colour;
    context.lineWidth = 2 * ratio;
    if (masks) {
      for (const outline of object.outlines) {
        context.beginPath();
        for (let i = 0; i < outline.length; i += 2) {
          context.lineTo(outline[i] * scale, outline[i + 1] * scale);
        }
        context.closePath();
        context.stroke();
        context.globalAlpha = 0.3;
        context.fill();
        context.globalAlpha = 1;
      }
      continue;
    }
    const [left, top, right, bottom] = object.box.map((side) => side * scale);
    context.strokeRect(left, top, right - left, bottom - top);
    const text = `${object.label}${object.score ? ` ${object.score.toFixed(2)}` : ''}`;
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    const { width } = context.measureText(text);
    const above = Math.max(0, top - 16 * ratio);
    context.fillRect(left, above, width + 6 * ratio, 16 * ratio);
    context.fillStyle = '#000';
    context.fillText(text, left + 3 * ratio, above + 12 * ratio);
  }
}

/** A colour bar. */
function drawBar(canvas, table) {
  canvas.width = 256;
  canvas.height = 1;
  const levels = Float32Array.from({ length: 256 }, (_, i) => i);
  canvas.getContext('2d').drawImage(coloured(levels, [1, 256], 0, 255, table), 0, 0);
}
