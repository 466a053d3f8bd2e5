import { prepare, resample, type Span, spans } from "../../draw/canvas";
import { step } from "../../draw/color";
import { el, moveTo } from "../../draw/dom";
import { thin } from "../../draw/labels";
import { NAN_CODE, thumbValue } from "../../protocol/decode";
import { take, walk } from "./keys";
import { type GridLayout, hitGrid, thumbnailAt } from "./layout";
import type { Parts } from "./parts";
import type { Head } from "./selection";

/** A step for every code of a thumbnail. */
const STEP_OF_CODE = Uint8Array.from({ length: 256 }, (_, code) => (code === NAN_CODE ? 0 : step(thumbValue(code))));

/** All heads, small: point at one to look at it, click to keep it. */
export function gridView(parts: Parts): HTMLElement {
  const { state, life, layout, shapes, theme, ratio, redraw } = parts;
  const { layers } = state.spec;
  const canvas = el("canvas");
  const labels = el("div", { class: "numbers", "aria-hidden": true });
  const chosen = el("div", { class: "ring chosen" });
  const pointed = el("div", { class: "ring pointed" });
  const root = el(
    "div",
    {
      class: "grid",
      "data-testid": "tlw-grid",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "grid of heads",
    },
    canvas,
    labels,
    pointed,
    chosen,
  );

  life.effect(() => {
    const { grid } = layout.value;
    root.style.width = `${grid.width}px`;
    root.style.height = `${grid.height}px`;
    const { x, y, cellWidth, cellHeight, gap, layerStep, headStep } = grid;
    root.dataset.layout = JSON.stringify({ x, y, cellWidth, cellHeight, gap, layerStep, headStep, layers });
    return undefined;
  });

  life.effect(() => {
    redraw.value;
    const { grid } = layout.value;
    const { ramp, nan, line } = theme.value;
    const { codes } = state.thumbs.value;
    const [rows, cols] = state.spec.thumb;
    const size = rows * cols;
    const width = grid.width - grid.x;
    const height = grid.height - grid.y;
    moveTo(canvas, grid.x, grid.y);
    canvas.classList.toggle("stale", !state.thumbsCurrent.value);
    const surface = prepare(canvas, width, height, ratio.value);
    if (!surface) return undefined;
    const image = surface.context.createImageData(surface.width, surface.height);
    const pixels = new Uint32Array(image.data.buffer);
    const w = Math.round(grid.cellWidth * ratio.value);
    const h = Math.round(grid.cellHeight * ratio.value);
    const down: Span[] = spans(rows, h);
    const right: Span[] = spans(cols, w);
    const level = codes.map((code) => STEP_OF_CODE[code]!);
    const holes = codes.includes(NAN_CODE) ? codes.map((code) => (code === NAN_CODE ? 255 : 0)) : null;
    for (const [row, head] of heads(layers.length, state.spec.n_heads)) {
      const offset = (row * state.spec.n_heads + head) * size;
      if (offset + size > codes.length) break;
      const { left, top } = thumbnailAt(grid, row, head);
      const x = Math.round((left - grid.x) * ratio.value);
      const y = Math.round((top - grid.y) * ratio.value);
      const steps = resample(level, offset, cols, down, right);
      const missing = holes && resample(holes, offset, cols, down, right);
      for (let at = 0; at < steps.length; at++) {
        const target = (y + Math.floor(at / w)) * surface.width + x + (at % w);
        pixels[target] = missing && missing[at]! > 127 ? nan : ramp.words[steps[at]!]!;
      }
    }
    surface.context.putImageData(image, 0, 0);
    frames(surface.context, grid, layers.length, state.spec.n_heads, ratio.value, line);
    return undefined;
  });

  life.effect(() => {
    const { grid } = layout.value;
    labels.replaceChildren(...numbers(grid, layers, state.spec.n_heads, state.shown.value));
    return undefined;
  });

  life.effect(() => {
    const { grid } = layout.value;
    put(chosen, grid, layers.indexOf(state.selected.layer.value), state.selected.head.value);
    const preview = state.previewHead.value;
    put(pointed, grid, preview ? layers.indexOf(preview.layer) : -1, preview?.head ?? -1);
    root.setAttribute(
      "aria-label",
      `${layers.length} layers by ${state.spec.n_heads} heads; selected: layer ${state.selected.layer.value}, head ${state.selected.head.value}`,
    );
    return undefined;
  });

  const at = (event: MouseEvent): Head | null => {
    const box = root.getBoundingClientRect();
    const hit = hitGrid(layout.peek().grid, shapes.peek(), event.clientX - box.left, event.clientY - box.top);
    return hit && { layer: layers[hit.row]!, head: hit.head };
  };
  // Only a move to another head previews: after Esc, or an arrow key, a pointer that rests there stays quiet.
  let last = "";
  const point = (head: Head | null) => {
    const now = head ? `${head.layer} ${head.head}` : "";
    if (now === last) return;
    last = now;
    state.previewHead.value = head;
  };
  life.on(root, "pointermove", (event) => point(at(event)));
  life.on(root, "pointerleave", () => point(null));
  life.on(root, "click", (event) => {
    const head = at(event);
    if (head) state.select({ ...head });
  });
  life.on(root, "keydown", (event) =>
    take(event, (key) => {
      const { across } = layout.peek().grid;
      const row = Math.max(0, layers.indexOf(state.selected.layer.peek()));
      const head = state.selected.head.peek();
      const [lines, columns] = across ? [state.spec.n_heads, layers.length] : [layers.length, state.spec.n_heads];
      const next = across ? walk(key, head, row, lines, columns) : walk(key, row, head, lines, columns);
      if (next) state.select({ layer: layers[across ? next[1] : next[0]]!, head: across ? next[0] : next[1] });
      return next !== null;
    }),
  );
  return root;
}

function* heads(rows: number, heads: number): Generator<[number, number]> {
  for (let row = 0; row < rows; row++) for (let head = 0; head < heads; head++) yield [row, head];
}

function frames(
  context: CanvasRenderingContext2D,
  grid: GridLayout,
  rows: number,
  count: number,
  ratio: number,
  line: string,
): void {
  context.strokeStyle = line;
  context.lineWidth = 1;
  context.beginPath();
  for (const [row, head] of heads(rows, count)) {
    const { left, top } = thumbnailAt(grid, row, head);
    const [x, y] = [Math.round((left - grid.x) * ratio), Math.round((top - grid.y) * ratio)];
    context.rect(x + 0.5, y + 0.5, Math.round(grid.cellWidth * ratio) - 1, Math.round(grid.cellHeight * ratio) - 1);
  }
  context.stroke();
}

function put(ring: HTMLElement, grid: GridLayout, row: number, head: number): void {
  ring.hidden = row < 0 || head < 0;
  if (ring.hidden) return;
  const { left, top } = thumbnailAt(grid, row, head);
  moveTo(ring, left - 2, top - 2, grid.cellWidth + 4, grid.cellHeight + 4);
}

/** Numbers of layers and heads along the edges, in the order of the axes. */
function numbers(grid: GridLayout, layers: number[], count: number, shown: Head): HTMLElement[] {
  const out: HTMLElement[] = [];
  const add = (values: number[], name: "layer" | "head", [dx, dy]: [number, number]) => {
    const sideways = dx > 0;
    const room = sideways ? 7 * String(values.at(-1)).length + 5 : 14;
    for (const i of thin(values.length, sideways ? dx : dy, room, [values.indexOf(shown[name])])) {
      const label = el("span", { class: sideways ? "top" : "left" }, String(values[i]));
      label.classList.toggle("lit", values[i] === shown[name]);
      if (sideways) moveTo(label, grid.x + i * dx + grid.cellWidth / 2 - 20, 0);
      else moveTo(label, 0, grid.y + i * dy + grid.cellHeight / 2 - 8);
      out.push(label);
    }
  };
  add(layers, "layer", grid.layerStep);
  add(
    Array.from({ length: count }, (_, head) => head),
    "head",
    grid.headStep,
  );
  return out;
}
