import { el, moveTo } from "../../draw/dom";
import { exact, short } from "../../draw/format";
import type { Parts } from "./parts";
import { link } from "./readout";

/** What the read-out takes at the bottom, which the tooltip leaves free. */
const READOUT = 36;

/**
 * What stands beside the cell pointed at. The read-out says the same aloud, so this is for eyes only.
 *
 * @param pattern the element that the cell is in
 * @param frame the element to stay within
 */
export function tooltipView({ state, life, layout }: Parts, pattern: HTMLElement, frame: HTMLElement): HTMLElement {
  const tokens = el("div");
  const large = el("div", { class: "large" });
  const whole = el("span", { "data-testid": "tlw-exact" });
  const where = el("div", { class: "muted" });
  const note = el("div", { class: "muted" });
  const root = el(
    "div",
    { class: "tooltip", "data-testid": "tlw-tooltip", "aria-hidden": true },
    tokens,
    large,
    el("div", { class: "muted exact" }, whole),
    note,
    where,
  );

  life.effect(() => {
    const cell = state.hovered.value ?? (state.walking.value ? state.pinned.value : null);
    const example = state.example.value;
    root.hidden = !cell || !example;
    if (!cell || !example) return undefined;
    const { layer, head } = state.shown.value;
    const weight = state.weight(cell);
    tokens.replaceChildren(link(example, cell, state.offset));
    large.textContent = weight === undefined ? "\u2026" : short(weight);
    whole.textContent = weight === undefined ? "" : exact(weight);
    note.textContent = state.masked(cell.query, cell.key) ? "a later token: masked" : "";
    where.textContent = `L${layer}H${head} \u00b7 query ${cell.query} \u00b7 key ${cell.key}`;

    const { x, y, cellWidth, cellHeight } = layout.value.pattern;
    const [box, outer] = [pattern.getBoundingClientRect(), frame.getBoundingClientRect()];
    const [left, top] = [
      box.left - outer.left + x + cell.key * cellWidth,
      box.top - outer.top + y + cell.query * cellHeight,
    ];
    const { offsetWidth: w, offsetHeight: h } = root;
    // To the right and below, unless that is outside: then on the other side of the cell.
    const beside = left + cellWidth + 12;
    const under = top + cellHeight + 12;
    moveTo(
      root,
      Math.max(0, beside + w > outer.width ? left - w - 12 : beside),
      Math.max(0, under + h > outer.height - READOUT ? top - h - 12 : under),
    );
    return undefined;
  });
  return root;
}
