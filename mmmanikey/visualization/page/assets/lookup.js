'use strict';
/* Attention of one layer: rows of the page's numbers by the place of a token. */

class Layer {
  /** A layer of the data, unpacked. */
  static async open(source) {
    source.opened ??= (async () => {
      const layer = Object.assign(new Layer(), source);
      layer.keyGrid ??= source.grid;
      layer.keyStride ??= source.stride;
      layer.values = await unpack(source.attention.values);
      layer.peaks = await unpack(source.attention.peaks);
      [layer.maps, layer.queries, layer.width] = source.attention.values.shape;
      if (source.windows) {
        layer.windowOf = await unpack(source.windows);
        layer.sightOf = await unpack(source.sights);
        layer.members = [];
        layer.windowOf.forEach((window, token) => {
          (layer.members[window] ??= []).push(token);
        });
      }
      return layer;
    })();
    return source.opened;
  }

  /** Row and column of the token at a place of the image, in its pixels. */
  cell(place, grid = this.grid, stride = this.stride) {
    const along = (at, count) =>
      Math.max(0, Math.min(count - 1, Math.floor(at / stride)));
    return { row: along(place.y, grid[0]), column: along(place.x, grid[1]) };
  }

  /** Rows and columns that lie in the image; the rest is padding. */
  visible() {
    return {
      rows: Math.min(this.grid[0], Math.ceil(data.image.height / this.stride)),
      columns: Math.min(this.grid[1], Math.ceil(data.image.width / this.stride)),
    };
  }

  /** Number of the token at a place. */
  token(place) {
    const { row, column } = this.cell(place);
    return row * this.grid[1] + column;
  }

  /** One map of attention over the key's grid; -1 is the mean of all. */
  look(place, map, fromClassToken) {
    const found = new Float32Array(this.keyGrid[0] * this.keyGrid[1]);
    const chosen = map < 0 || map >= this.maps ? [...Array(this.maps).keys()] : [map];
    const token = this.wholeImage ? 0 : this.token(place);
    const ofClass = fromClassToken && this.classToken;
    const query = ofClass ? 0 : token + (this.classToken ? 1 : 0);
    const members = this.members?.[ofClass ? 0 : this.windowOf[token]];
    for (const each of chosen) {
      const at = each * this.queries + query;
      const step = this.attention.top * this.peaks[at] / 65535 / 255 / chosen.length;
      const length = members ? members.length : this.width;
      for (let k = 0; k < length; k += 1) {
        found[members ? members[k] : k] += step * this.values[at * this.width + k];
      }
    }
    return found;
  }

  /** What stands in a map at a place. */
  at(map, place) {
    const { row, column } = this.cell(place, this.keyGrid, this.keyStride);
    return map[row * this.keyGrid[1] + column];
  }
}

/** The layer of another model that belongs beside one of the main model's. */
function partner(model, main, source) {
  if (source.number === undefined) {
    return model.rollouts.find((rollout) => rollout.name === source.name) ?? null;
  }
  const share = (model.count - 1) / Math.max(1, main.count - 1);
  const number = model.count === main.count
    ? source.number : Math.round(source.number * share);
  return model.layers.find((layer) => layer.number === number) ?? null;
}

/** Second less first, on the finer grid, as attention per token of it. */
function difference(first, firstMap, second, secondMap) {
  const finer = first.keyStride <= second.keyStride ? first : second;
  const [height, width] = finer.keyGrid;
  const stride = finer.keyStride;
  const share = (layer) => (stride / layer.keyStride) ** 2;
  const values = new Float32Array(height * width);
  for (let i = 0; i < values.length; i += 1) {
    const place = {
      y: (Math.floor(i / width) + 0.5) * stride,
      x: ((i % width) + 0.5) * stride,
    };
    values[i] = second.at(secondMap, place) * share(second)
      - first.at(firstMap, place) * share(first);
  }
  return { values, grid: finer.keyGrid, stride };
}
