import type { ReadonlySignal } from "@preact/signals-core";
import type { Life } from "../../host/life";
import type { Theme } from "../../theme/theme";
import type { Layout, Shapes } from "./layout";
import type { CacheState } from "./state";
import type { PatternStore } from "./store";

/** What every part of the view is given. */
export interface Parts {
  state: CacheState;
  store: PatternStore;
  life: Life;
  theme: ReadonlySignal<Theme>;
  layout: ReadonlySignal<Layout>;
  shapes: ReadonlySignal<Shapes>;
  /** Screen pixels per CSS px. */
  ratio: ReadonlySignal<number>;
  /** Changes when canvases may have lost what was drawn. */
  redraw: ReadonlySignal<number>;
}
