'use strict';
/* From the page's data to numbers. */

const data = JSON.parse(document.getElementById('data').textContent);

/** The unsigned integers of a packed array; unpacked once. */
function unpack(packed) {
  packed.array ??= (async () => {
    const text = atob(packed.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream();
    const plain = stream.pipeThrough(new DecompressionStream('gzip'));
    const buffer = await new Response(plain).arrayBuffer();
    return packed.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer);
  })();
  return packed.array;
}

/** Numbers between two ends, and these. */
async function unpackRange(packed) {
  const steps = await unpack(packed.values);
  const { low, high } = packed;
  const values = Float32Array.from(steps, (step) => low + (step / 255) * (high - low));
  return { values, low, high, shape: packed.values.shape };
}

/** Maps of one size that lie one after the other. */
function mapsOf(range) {
  const size = range.shape.slice(1).reduce((a, b) => a * b, 1);
  return Array.from({ length: range.shape[0] }, (_, i) =>
    range.values.subarray(i * size, (i + 1) * size));
}

function largest(values) {
  let most = 0;
  for (const value of values) if (value > most) most = value;
  return most;
}

/** A number with three digits that count. */
function told(value) {
  if (value === 0) return '0';
  return Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3);
}
