import { computed } from "@preact/signals-core";
import { blit, prepare, type Surface } from "../../draw/canvas";
import { step } from "../../draw/color";
import { el, moveTo } from "../../draw/dom";
import { tiny } from "../../draw/format";
import { axes } from "./axes";
import { take, walk } from "./keys";
import { hitPattern, type PatternLayout } from "./layout";
import type { Parts } from "./parts";
import type { Cell } from "./selection";
import type { Picture } from "./state";

/** Cells at least this large have lines between them; and from here on, the numbers of the strong ones. */
const LINED = 9;
const NUMBERED = 27;
const STRONG = 0.1;

/** The large pattern of the head shown. */
export function patternView(parts: Parts): HTMLElement {
  const { state, life, layout, theme, ratio, redraw } = parts;
  const canvas = el("canvas");
  const rowBand = el("div", { class: "band" });
  const colBand = el("div", { class: "band" });
  const chosenRow = el("div", { class: "chosen-row" });
  const pinned = el("div", { class: "ring chosen" });
  const hovered = el("div", { class: "ring pointed" });
  const root = el(
    "div",
    {
      class: "pattern",
      "data-testid": "tlw-pattern",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "attention pattern",
    },
    canvas,
    chosenRow,
    rowBand,
    colBand,
    axes(parts),
    pinned,
    hovered,
  );

  const place = computed(() => layout.value.pattern);

  life.effect(() => {
    const { x, y, cellWidth, cellHeight, rows, cols, width, height } = place.value;
    root.style.width = `${width}px`;
    root.style.height = `${height}px`;
    root.dataset.layout = JSON.stringify({ x, y, cellWidth, cellHeight, gap: 0, rows, cols });
    moveTo(canvas, x, y);
    return undefined;
  });

  life.effect(() => {
    redraw.value;
    const { cellWidth, cellHeight, rows, cols } = place.value;
    const surface = prepare(canvas, cellWidth * cols, cellHeight * rows, ratio.value);
    if (!surface) return undefined;
    const picture = state.picture.value;
    const { ramp, nan, line } = theme.value;
    if (picture.kind !== "none") {
      const words = Uint32Array.from(picture.values, (v) => (Number.isNaN(v) ? nan : ramp.words[step(v)]!));
      blit(surface, words, picture.rows, picture.cols);
    }
    const edge = state.causal.value ? state.offset : null;
    outline(surface, place.value, edge, line);
    if (picture.kind === "exact" && Math.min(cellWidth, cellHeight) >= NUMBERED) {
      numbers(surface, picture, getComputedStyle(root).fontFamily, ratio.value, (v) => theme.value.ink(step(v)));
    }
    return undefined;
  });

  life.effect(() => {
    const at = place.value;
    const { x, y, cellWidth, cellHeight, rows, cols } = at;
    const cell = state.hovered.value ?? state.pinned.value;
    for (const each of [rowBand, colBand]) each.hidden = !cell;
    if (cell) {
      moveTo(rowBand, x, y + cell.query * cellHeight, cellWidth * cols, cellHeight);
      moveTo(colBand, x + cell.key * cellWidth, y, cellWidth, cellHeight * rows);
    }
    surround(hovered, at, state.hovered.value);
    surround(pinned, at, state.pinned.value);
    const position = state.position.value;
    chosenRow.hidden = position < 0 || position >= rows;
    moveTo(chosenRow, x - 5, y + position * cellHeight, 2, cellHeight);
    return undefined;
  });

  life.effect(() => {
    const { layer, head } = state.shown.value;
    root.setAttribute("aria-label", `attention pattern of layer ${layer}, head ${head}; arrow keys walk its cells`);
    return undefined;
  });

  const hover = (cell: Cell | null) => {
    const now = state.hovered.peek();
    if (now?.query !== cell?.query || now?.key !== cell?.key) state.hovered.value = cell;
  };
  const at = (event: MouseEvent) => {
    const box = root.getBoundingClientRect();
    return hitPattern(place.peek(), event.clientX - box.left, event.clientY - box.top);
  };
  /** The query whose label is under the pointer. */
  const label = (event: MouseEvent) => {
    const box = root.getBoundingClientRect();
    const inside = event.clientX - box.left < place.peek().x;
    const hit = inside && hitPattern(place.peek(), place.peek().x, event.clientY - box.top);
    return hit ? hit.query : null;
  };
  const preview = (query: number | null) => {
    if (state.previewPosition.peek() !== query) state.previewPosition.value = query;
    root.classList.toggle("on-label", query !== null);
  };
  life.on(root, "pointermove", (event) => {
    hover(at(event));
    preview(label(event));
  });
  life.on(root, "pointerleave", () => {
    hover(null);
    preview(null);
  });
  life.on(root, "click", (event) => {
    const cell = at(event);
    const query = label(event);
    if (cell) state.pin(cell);
    else if (query !== null) state.select({ position: query });
  });
  life.on(root, "blur", () => {
    state.walking.value = false;
  });
  life.on(root, "keydown", (event) =>
    take(event, (key) => {
      const { rows, cols } = place.peek();
      const from = state.hovered.peek() ?? state.pinned.peek() ?? state.spoken.peek()?.cell;
      const now = from ?? { query: state.position.peek(), key: 0 };
      if (key === "Enter" || key === " ") {
        state.pin(now);
        return true;
      }
      const next = walk(key, now.query, now.key, rows, cols);
      if (next) state.point({ query: next[0], key: next[1] });
      return next !== null;
    }),
  );
  return root;
}

function surround(ring: HTMLElement, { x, y, cellWidth, cellHeight }: PatternLayout, cell: Cell | null): void {
  ring.hidden = !cell;
  if (!cell) return;
  // Around a cell too small to hold a ring.
  const [w, h] = [Math.max(cellWidth, 6), Math.max(cellHeight, 6)];
  moveTo(
    ring,
    x + (cell.key + 0.5) * cellWidth - w / 2 - 1,
    y + (cell.query + 0.5) * cellHeight - h / 2 - 1,
    w + 2,
    h + 2,
  );
}

/** Hairlines between cells, or around all of them; none where there is no data (above the diagonal). */
function outline(surface: Surface, at: PatternLayout, offset: number | null, line: string): void {
  const { context, width, height } = surface;
  const { rows, cols } = at;
  const right = (row: number) =>
    Math.round((width * (offset === null ? cols : Math.min(cols, row + offset + 1))) / cols);
  const y = (row: number) => Math.round((height * row) / rows);
  const lined = Math.min(at.cellWidth, at.cellHeight) >= LINED;
  if (!lined) {
    // Too fine for steps: the two sides, and a slope along the last key that each query sees.
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(0.5, 0);
    context.lineTo(0.5, height - 0.5);
    context.lineTo(width - 0.5, height - 0.5);
    context.lineTo(width - 0.5, offset === null ? 0.5 : y(rows - 1));
    context.lineTo(Math.min(right(0), width - 0.5), 0.5);
    context.closePath();
    context.stroke();
    return;
  }
  context.fillStyle = line;
  for (let row = 0; row < rows; row++) {
    context.fillRect(0, y(row), right(row), 1);
    for (let col = 0; Math.round((width * col) / cols) < right(row); col++) {
      context.fillRect(Math.round((width * col) / cols), y(row), 1, y(row + 1) - y(row));
    }
    context.fillRect(right(row) - 1, y(row), 1, y(row + 1) - y(row));
  }
  context.fillRect(0, height - 1, width, 1);
}

function numbers(surface: Surface, picture: Picture, font: string, ratio: number, ink: (v: number) => string): void {
  const { context, width, height } = surface;
  const { rows, cols, values } = picture;
  context.font = `${11 * ratio}px ${font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const value = values[row * cols + col]!;
      if (!(value >= STRONG)) continue;
      context.fillStyle = ink(value);
      context.fillText(tiny(value), ((col + 0.5) * width) / cols, ((row + 0.54) * height) / rows);
    }
  }
}
