/** Matrices onto canvases, in the screen's own pixels. */

export interface Surface {
  context: CanvasRenderingContext2D;
  /** Screen pixels of the canvas. */
  width: number;
  height: number;
}

/** Size a canvas in CSS px and clear it; null where nothing can be drawn (no canvas at all, or no room). */
export function prepare(canvas: HTMLCanvasElement, width: number, height: number, ratio: number): Surface | null {
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  // Setting a size, even the same one, throws the pixels away and allocates anew.
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  const context = canvas.getContext("2d");
  if (!context || w === 0 || h === 0) return null;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, w, h);
  return { context, width: w, height: h };
}

/** Draw one word a cell, scaled to the rectangle with hard edges. */
export function blit(surface: Surface, words: Uint32Array, rows: number, cols: number): void {
  const small = document.createElement("canvas");
  small.width = cols;
  small.height = rows;
  const context = small.getContext("2d");
  if (!context) return;
  const image = context.createImageData(cols, rows);
  new Uint32Array(image.data.buffer).set(words);
  context.putImageData(image, 0, 0);
  surface.context.imageSmoothingEnabled = false;
  surface.context.drawImage(small, 0, 0, surface.width, surface.height);
}

export interface Span {
  first: number;
  /** How much of the pixel each cell, from `first` on, covers. */
  shares: number[];
}

/** Which of `count` cells lie under each of `pixels`. */
export function spans(count: number, pixels: number): Span[] {
  return Array.from({ length: pixels }, (_, i) => {
    const [from, to] = [(i * count) / pixels, ((i + 1) * count) / pixels];
    const first = Math.floor(from + 1e-9);
    const last = Math.max(first, Math.ceil(to - 1e-9) - 1);
    const shares = [];
    for (let cell = first; cell <= last; cell++) {
      shares.push((Math.min(to, cell + 1) - Math.max(from, cell)) / (to - from));
    }
    return { first, shares };
  });
}

/**
 * A thumbnail at a size of its own.
 *
 * Growing, a pixel that two cells share is a mix of both: diagonals stay even. Shrinking, the strongest wins: a
 * single strong weight must not fade into its neighbours.
 *
 * @param level the cells' steps (0..255), row-major, from `offset` on
 * @returns the pixels' steps
 */
export function resample(level: Uint8Array, offset: number, cols: number, down: Span[], right: Span[]): Uint8Array {
  const out = new Uint8Array(down.length * right.length);
  const shrink = right.length < cols || down.length < Math.round(down.at(-1)!.first + down.at(-1)!.shares.length);
  let at = 0;
  for (const row of down) {
    for (const column of right) {
      let [sum, most] = [0, 0];
      for (let r = 0; r < row.shares.length; r++) {
        const start = offset + (row.first + r) * cols + column.first;
        for (let c = 0; c < column.shares.length; c++) {
          const value = level[start + c]!;
          sum += value * row.shares[r]! * column.shares[c]!;
          if (value > most) most = value;
        }
      }
      out[at++] = shrink ? most : Math.round(sum);
    }
  }
  return out;
}
