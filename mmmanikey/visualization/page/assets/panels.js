'use strict';
/* The column of a model: its large picture, and below its heads and its key. */

/** An element with attributes and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== 'string') element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Children of an element, as many as are wanted, made where they are missing. */
function children(parent, count, create) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(create(parent.children.length));
  return [...parent.children];
}

function pictureWithLabel(tag, attributes = {}) {
  return make(tag, attributes,
    make('canvas', { 'aria-hidden': 'true' }), make('span', { class: 'label' }));
}

class Column {
  constructor(name, detail, table) {
    this.name = name;
    this.stage = make('canvas', {
      class: 'stage', tabIndex: 0, role: 'application', 'aria-describedby': 'help',
      'aria-label': name,
    });
    this.low = make('span', {}, '0');
    this.high = make('span', {});
    this.bar = make('canvas', { 'aria-hidden': 'true' });
    this.caption = make('p', { class: 'soft' });
    this.heads = make('div', { class: 'small', role: 'group', 'aria-label': `Heads of ${name}` });
    this.key = make('div', { class: 'key' });
    this.top = make('section', { class: 'model', 'aria-label': name },
      make('h2', {}, `${name} `, make('small', {}, detail)),
      this.stage,
      make('div', { class: 'legend' }, this.low, this.bar, this.high),
      this.caption);
    this.bottom = make('section', { class: 'model', 'aria-label': `${name}, heads and key` },
      this.heads, this.key);
    this.table = table;
  }

  legend(low, high) {
    this.low.textContent = told(low);
    this.high.textContent = told(high);
    drawBar(this.bar, this.table);
  }

  /** Small pictures of the mean and of every head. */
  showHeads(layer, maps, mean, high, state, choose) {
    const several = layer.maps > 1;
    const all = several ? [mean, ...maps] : [];
    const buttons = children(this.heads, all.length, (i) => {
      const button = pictureWithLabel('button', { type: 'button' });
      button.addEventListener('click', () => choose(i - 1));
      return button;
    });
    buttons.forEach((button, i) => {
      const name = i ? `head ${i - 1}` : 'mean';
      button.setAttribute('aria-pressed', String(state.head === i - 1));
      const most = told(largest(all[i]));
      button.setAttribute('aria-label', `${name} · ${most} at most`);
      button.lastChild.textContent = `${name} · ${most}`;
      drawHeat(button.firstChild,
        { values: all[i], grid: layer.keyGrid, stride: layer.keyStride, high });
    });
  }

  /** Charts and colours of the layer's key; what depends on the token follows it. */
  async showKey(layer, token) {
    const width = this.key.clientWidth;
    if (this.keyOf !== layer || this.keyWidth !== width) {
      const parts = [];
      if (layer.colours) parts.push(await this.colours(layer));
      const { charts } = layer;
      if (charts) {
        const title = `Norm of each of ${charts.count} charts of ${charts.strategy}`;
        parts.push(await this.maps(title, charts.norms, layer));
        if (charts.memberships) {
          parts.push(await this.maps('Membership of each chart', charts.memberships, layer));
        }
        if (charts.mixing) parts.push(await this.mixing(charts));
      }
      this.key.replaceChildren(...parts.map((part) => part.element));
      parts.forEach((part) => part.paint());
      this.follow = parts.map((part) => part.follow);
      [this.keyOf, this.keyWidth] = [layer, width];
    }
    this.follow.forEach((follow) => follow(token));
  }

  clear() {
    children(this.heads, 0);
    this.key.replaceChildren();
    this.keyOf = null;
  }

  async colours(layer) {
    const values = await unpack(layer.colours.values);
    const [height, width] = layer.grid;
    const canvas = make('canvas', {
      class: 'colours', role: 'img',
      'aria-label': `Key of ${this.name} as colours`, width, height,
    });
    const paint = () => {
      const context = canvas.getContext('2d');
      const image = context.createImageData(width, height);
      for (let i = 0; i < width * height; i += 1) {
        image.data.set(values.subarray(3 * i, 3 * i + 3), 4 * i);
        image.data[4 * i + 3] = 255;
      }
      context.putImageData(image, 0, 0);
    };
    const basis = layer.colours.together
      ? 'three principal components, the same for both models, each scaled to one spread'
      : 'its three principal components';
    const title = make('h3', {}, 'Key as colours ', make('small', {}, basis));
    return { element: make('div', {}, title, canvas), paint, follow() {} };
  }

  /** A value of each chart over the image. */
  async maps(title, packed, layer) {
    const range = await unpackRange(packed);
    const maps = mapsOf(range);
    const figures = maps.map(() => pictureWithLabel('figure'));
    const scale = `from ${told(range.low)} to ${told(range.high)}; the number is the token's`;
    return {
      element: make('div', {}, make('h3', {}, `${title} `, make('small', {}, scale)),
        make('div', { class: 'small' }, ...figures)),
      paint: () => figures.forEach((figure, i) => drawHeat(figure.firstChild, {
        ...range, values: maps[i], grid: layer.grid, stride: layer.stride, table: 'viridis',
      }, 0.8)),
      follow: (token) => figures.forEach((figure, i) => {
        figure.lastChild.textContent = `chart ${i} · ${told(maps[i][token])}`;
      }),
    };
  }

  /** What each chart mixes at the token's place in its window. */
  async mixing(charts) {
    const range = await unpackRange(charts.mixing);
    const inside = await unpack(charts.inside);
    const reach = Math.max(Math.abs(range.low), Math.abs(range.high));
    const [height, width] = charts.window;
    const size = height * width;
    const maps = mapsOf(range);
    const figures = maps.map((_, i) => {
      const figure = pictureWithLabel('figure');
      figure.lastChild.textContent = `chart ${i}`;
      figure.firstChild.className = 'pixels';
      [figure.firstChild.width, figure.firstChild.height] = [width, height];
      return figure;
    });
    const at = make('span', {});
    const scale = `weights of the window's tokens, ${told(-reach)} to ${told(reach)}`;
    return {
      element: make('div', {}, make('h3', {}, at, ' ', make('small', {}, scale)),
        make('div', { class: 'small' }, ...figures)),
      paint() {},
      follow: (token) => {
        const place = inside[token];
        at.textContent = `Mixing at row ${Math.floor(place / width)}, column `
          + `${place % width} of the window`;
        figures.forEach((figure, i) => {
          const row = maps[i].subarray(place * size, (place + 1) * size);
          const small = coloured(row, [height, width], -reach, reach, 'RdBu_r');
          figure.firstChild.getContext('2d').drawImage(small, 0, 0);
        });
      },
    };
  }
}
