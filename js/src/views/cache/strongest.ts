import { signal } from "@preact/signals-core";
import { el } from "../../draw/dom";
import { short } from "../../draw/format";
import type { Parts } from "./parts";
import { describe, tokenElement } from "./token-text";

const LINES = 12;

/** What the chosen position reads most, as a list with bars: only where there is room for it. */
export function strongestView({ state, life, layout }: Parts): HTMLElement {
  const title = el("div", { class: "title" });
  const list = el("div", { class: "list" });
  const root = el("div", { class: "strongest", "data-testid": "tlw-strongest" }, title, list);
  const built = signal(0);

  life.effect(() => {
    const { side } = layout.value;
    const example = state.example.value;
    root.hidden = side === 0 || !example;
    if (root.hidden || !example) return undefined;
    root.style.width = `${side}px`;
    const query = state.position.value;
    title.replaceChildren(
      el("span", { class: "muted" }, "strongest from"),
      tokenElement(example, query + state.offset),
    );
    const { values, kind } = state.row.value;
    // A pooled row has runs of equal values: no order to show.
    const keys = kind === "coarse" ? [] : state.strongest.value.slice(0, LINES);
    list.replaceChildren(
      ...keys.map((key) => {
        const bar = el("span", { class: "bar" });
        bar.style.width = `${100 * Math.min(1, values[key]!)}%`;
        return el(
          "div",
          { class: "line", "data-key": key, title: describe(example, key) },
          tokenElement(example, key),
          el("span", { class: "at" }, `${key}`), // which of several tokens of one text
          el("span", { class: "track" }, bar),
          el("span", { class: "number" }, kind === "exact" ? short(values[key]!) : ""),
        );
      }),
    );
    built.value = built.peek() + 1;
    return undefined;
  });

  life.effect(() => {
    const lit = (state.hovered.value ?? state.pinned.value)?.key;
    built.value;
    for (const line of list.children as HTMLCollectionOf<HTMLElement>) {
      line.classList.toggle("lit", line.dataset.key === `${lit}`);
    }
    return undefined;
  });

  const keyAt = (event: Event) => (event.target as HTMLElement).closest<HTMLElement>("[data-key]")?.dataset.key;
  life.on(list, "pointerover", (event) => {
    const key = keyAt(event);
    state.hovered.value = key === undefined ? null : { query: state.position.peek(), key: Number(key) };
  });
  life.on(list, "pointerleave", () => {
    state.hovered.value = null;
  });
  life.on(list, "click", (event) => {
    const key = keyAt(event);
    if (key !== undefined) state.pin({ query: state.position.peek(), key: Number(key) });
  });
  return root;
}
