import { signal } from "@preact/signals-core";
import { el, moveTo } from "../../draw/dom";
import { thin } from "../../draw/labels";
import type { PatternLayout } from "./layout";
import type { Parts } from "./parts";
import { describe, tokenElement } from "./token-text";

/** Room that a label takes across its axis. */
const ROW_ROOM = 15;
const COL_ROOM = 18;

/** The tokens along the pattern: queries to its left, keys above. */
export function axes({ state, life, layout }: Parts): HTMLElement {
  const rows = el("div", { class: "queries", "aria-hidden": true });
  const cols = el("div", { class: "keys", "aria-hidden": true });
  const root = el("div", { class: "axes" }, rows, cols);

  const built = signal(0);

  const label = (at: PatternLayout, axis: "query" | "key", index: number): HTMLElement => {
    const position = axis === "query" ? index + state.offset : index;
    const token = tokenElement(state.example.peek()!, position);
    const element = el(
      "div",
      { class: "label", "data-at": index, title: describe(state.example.peek()!, position) },
      token,
    );
    if (axis === "query") {
      element.style.width = `${at.x - 8}px`;
      moveTo(element, 0, at.y + (index + 0.5) * at.cellHeight - 9);
    } else {
      element.style.left = `${at.x + (index + 0.5) * at.cellWidth}px`;
      element.style.top = `${at.y - 3}px`;
    }
    return element;
  };

  life.effect(() => {
    const at = layout.value.pattern;
    const example = state.example.value;
    const chosen = state.position.value;
    if (!example) return undefined;
    const fill = (parent: HTMLElement, axis: "query" | "key", shown: number[]) =>
      parent.replaceChildren(...shown.map((index) => label(at, axis, index)));
    fill(rows, "query", thin(at.rows, at.cellHeight, ROW_ROOM, [chosen]));
    fill(cols, "key", thin(at.cols, at.cellWidth, COL_ROOM));
    built.value = built.peek() + 1;
    return undefined;
  });

  // The labels of the cell pointed at are there whatever was thinned out; the ones that they would touch step back.
  life.effect(() => {
    built.value;
    const at = layout.value.pattern;
    const example = state.example.value;
    const cell = state.hovered.value ?? state.pinned.value;
    const position = state.position.value;
    if (!example) return undefined;
    const light = (parent: HTMLElement, axis: "query" | "key", index: number | undefined, apart: number) => {
      parent.querySelector(".extra")?.remove();
      let there = false;
      for (const each of parent.children as HTMLCollectionOf<HTMLElement>) {
        const distance = Math.abs(Number(each.dataset.at) - (index ?? Number.NaN));
        if (distance === 0) there = true;
        each.classList.toggle("lit", distance === 0);
        each.classList.toggle("away", distance > 0 && distance < apart);
        each.classList.toggle("chosen", axis === "query" && each.dataset.at === `${position}`);
      }
      if (index === undefined || there) return;
      const extra = label(at, axis, index);
      extra.classList.add("extra", "lit");
      parent.append(extra);
    };
    light(rows, "query", cell?.query, ROW_ROOM / at.cellHeight);
    light(cols, "key", cell?.key, COL_ROOM / at.cellWidth);
    return undefined;
  });
  return root;
}
