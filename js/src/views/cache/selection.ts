import { batch, computed, type Signal, signal } from "@preact/signals-core";
import type { Life } from "../../host/life";
import type { Model } from "../../host/model";

export interface Head {
  layer: number;
  head: number;
}

export interface Cell {
  query: number;
  key: number;
}

const TRAITS = ["example", "layer", "head", "position"] as const;
type Trait = (typeof TRAITS)[number];

const sameCell = (a: Cell | null, b: Cell | null) => a?.query === b?.query && a?.key === b?.key;

/**
 * What is selected (shared with the kernel), and what is only looked at (here alone).
 *
 * Hovering sets `previewHead`, `previewPosition` and `hovered`; clicking `select`s and pins.
 */
export class Selection {
  readonly selected: Record<Trait, Signal<number>>;
  readonly previewHead = signal<Head | null>(null);
  readonly previewPosition = signal<number | null>(null);
  readonly hovered = signal<Cell | null>(null);
  readonly pinned = signal<Cell | null>(null);
  /** Whether the pinned cell is where the keys have led: then it is looked at as if pointed at. */
  readonly walking = signal(false);
  readonly #model: Model;

  constructor(model: Model, life: Life) {
    this.#model = model;
    this.selected = Object.fromEntries(
      TRAITS.map((name) => [name, signal(Number(model.get(name)))]),
    ) as typeof this.selected;
    for (const name of TRAITS) follow(model, name, () => this.#adopt(name, Number(model.get(name))), life);
  }

  readonly shown = computed<Head>(
    () => this.previewHead.value ?? { layer: this.selected.layer.value, head: this.selected.head.value },
  );

  readonly position = computed(() => this.previewPosition.value ?? this.selected.position.value);

  /** Someone else (Python, another view) selects: what is previewed here gives way. */
  #adopt(name: Trait, value: number): void {
    if (value === this.selected[name].peek()) return;
    batch(() => {
      this.selected[name].value = value;
      this.#letGo(name, value);
    });
  }

  #letGo(name: Trait, value: number): void {
    if (name === "layer" || name === "head") this.previewHead.value = null;
    if (name === "position") this.previewPosition.value = null;
    // A pinned cell stays while heads are compared, and goes with its row.
    if (name === "example" || (name === "position" && this.pinned.peek()?.query !== value)) this.pinned.value = null;
  }

  /** Commit, for every view of this widget and for Python. */
  select(changes: Partial<Record<Trait, number>>): void {
    batch(() => {
      let changed = false;
      for (const [name, value] of Object.entries(changes) as [Trait, number][]) {
        changed ||= value !== this.selected[name].peek();
        this.selected[name].value = value;
        this.#letGo(name, value);
        this.#model.set(name, value);
      }
      if (changed) this.#model.save_changes();
    });
  }

  /** Click a cell: pin it, and read the text from its row; click it again to release. */
  pin(cell: Cell): void {
    batch(() => {
      // The keys lead a pinned cell along: Enter then is the first to commit it.
      const committed = !this.walking.peek() && cell.query === this.selected.position.peek();
      const again = committed && sameCell(cell, this.pinned.peek());
      this.walking.value = false;
      this.pinned.value = again ? null : cell;
      if (!again) this.select({ position: cell.query });
    });
  }

  /** Walk to a cell by keys: it takes the place of what the pointer was on. */
  point(cell: Cell): void {
    batch(() => {
      this.hovered.value = null;
      this.pinned.value = cell;
      this.walking.value = true;
    });
  }

  /** Esc: let go of whatever is only looked at. False if there was nothing. */
  release(): boolean {
    const held = [this.previewHead, this.previewPosition, this.hovered, this.pinned] as Signal<unknown>[];
    const any = held.some((each) => each.peek() !== null);
    batch(() => {
      for (const each of held) each.value = null;
    });
    return any;
  }
}

/** Call `handler` when a trait changes, for as long as `life` lasts. */
export function follow(model: Model, name: string, handler: () => void, life: Life): void {
  model.on(`change:${name}`, handler);
  life.add(() => model.off(`change:${name}`, handler));
}
