import { untracked } from "@preact/signals-core";
import type { Parts } from "./parts";

/** A pointer that only passes over asks for nothing. */
const REST = 60;

/** Ask for what is selected, and beyond one tile for the exact numbers of what is looked at. */
export function fetching({ state, store, life }: Parts): void {
  const { spec, selected } = state;

  life.effect(() => {
    const head = { layer: selected.layer.value, head: selected.head.value };
    const example = selected.example.value;
    if (!spec.layers.includes(head.layer) || !(head.head < spec.n_heads) || !spec.examples[example]) return undefined;
    untracked(() => store.want(state.whole(example, head)));
    return undefined;
  });

  // Previews are left out: hovering over heads sends nothing to the kernel.
  const pooled = () => state.picture.value.kind === "pooled" && state.previewHead.value === null;

  life.effect(() => {
    if (!pooled()) return undefined;
    const position = selected.position.value;
    for (const piece of state.rowPieces(position)) untracked(() => store.fetch(piece));
    return undefined;
  });

  life.effect(() => {
    const cell = state.hovered.value ?? state.pinned.value;
    if (!cell || !pooled() || state.weight(cell) !== undefined) return undefined;
    const tile = state.tile(cell);
    const timer = setTimeout(() => store.fetch(tile), REST);
    return () => clearTimeout(timer);
  });
}
