import { computed, signal } from "@preact/signals-core";
import { el } from "../../draw/dom";
import { measurer } from "../../draw/labels";
import { KernelSource } from "../../host/kernel";
import { Life } from "../../host/life";
import type { Model } from "../../host/model";
import { followTheme } from "../../theme/theme";
import themeCss from "../../theme/theme.css";
import { fetching } from "./fetching";
import { gridView } from "./grid";
import { headerView } from "./header";
import { keep, take } from "./keys";
import { layout, type Shapes, WIDE } from "./layout";
import { noticeView } from "./notice";
import type { Parts } from "./parts";
import { patternView } from "./pattern";
import { readoutView } from "./readout";
import { CacheState } from "./state";
import { PatternStore } from "./store";
import { strongestView } from "./strongest";
import { titleView } from "./title";
import { plain } from "./token-text";
import { tokensView } from "./tokens";
import { tooltipView } from "./tooltip";
import viewCss from "./view.css";

/** Longer labels are cut: px, wide and narrow. */
const LONGEST = { wide: 112, narrow: 76 };

/** Show a cache in `host`. Returns what ends it; `ending` does the same. */
export function showCache(model: Model, host: HTMLElement, ending?: AbortSignal): () => void {
  const life = new Life(ending);
  const store = new PatternStore(new KernelSource(model, life));
  const state = new CacheState(model, store, life);

  const shell = host.appendChild(el("div"));
  life.add(() => shell.remove());
  // Keys that are handled are stopped before JupyterLab hears them. The attribute is for hosts that look inside: on the
  // shell it would silence every shortcut, saving and running the cell among them, as soon as the view has the focus.
  const root = el("div", { class: "tlw", "data-testid": "tlw-root", "data-lm-suppress-shortcuts": "true" });
  const ruler = el("div", { class: "ruler" });
  shell.attachShadow({ mode: "open" }).append(el("style", {}, themeCss, viewCss), root);

  const { theme, refresh } = followTheme(host, life);
  const width = signal(0);
  const redraw = signal(0);
  const ratio = signal(devicePixelRatio);
  const shapes = computed(() => measure(state, root, width.value));
  const parts: Parts = {
    state,
    store,
    life,
    theme,
    redraw,
    ratio,
    shapes,
    layout: computed(() => layout(width.value, shapes.value)),
  };

  const pattern = patternView(parts);
  root.append(
    ruler,
    headerView(parts, root),
    tokensView(parts),
    el(
      "div",
      { class: "panels" },
      el("div", {}, legendView(parts), gridView(parts)),
      el(
        "div",
        { class: "open" },
        el("div", { class: "main" }, titleView(parts), el("div", { class: "stage" }, pattern, noticeView(parts))),
        strongestView(parts),
      ),
    ),
    readoutView(parts, root),
    tooltipView(parts, pattern, root),
  );

  life.effect(() => {
    root.dataset.dark = `${theme.value.dark}`;
    root.style.setProperty("--tlw-bg", `rgb(${theme.value.background.join(" ")})`);
    return undefined;
  });
  life.effect(() => {
    root.classList.toggle("wide", parts.layout.value.wide);
    root.style.setProperty("--tlw-key-label", `${shapes.value.keyLabel}px`);
    return undefined;
  });
  walkLayers(parts, root);
  fetching(parts);
  stamp(parts, root);

  const resized = new ResizeObserver(() => {
    refresh(); // the first time, this is when the view has come into the page
    width.value = ruler.clientWidth;
  });
  resized.observe(ruler);
  // A canvas that was scrolled away can come back blank.
  const seen = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) redraw.value++;
  });
  seen.observe(root);
  life.add(() => {
    resized.disconnect();
    seen.disconnect();
  });
  life.effect(() => {
    // Zoom, or a window moved to another screen: such a query only tells of leaving its own value.
    const query = matchMedia(`(resolution: ${ratio.value}dppx)`);
    const follow = () => {
      ratio.value = devicePixelRatio;
    };
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  });
  return () => life.end();
}

/** How much room the labels of all examples need: so that changing the example moves nothing either. */
function measure({ spec }: CacheState, root: HTMLElement, width: number): Shapes {
  const measured = measurer(`12px ${getComputedStyle(root).fontFamily || "sans-serif"}`);
  let longest = 24;
  const limit = width >= WIDE ? LONGEST.wide : LONGEST.narrow;
  for (const { text, special } of spec.examples) {
    const specials = new Set(special);
    for (const [index, token] of text.entries()) {
      if (longest >= limit) break;
      longest = Math.max(longest, measured(plain(token, specials.has(index))) + 12);
    }
  }
  const label = Math.min(limit, Math.ceil(longest));
  return {
    layers: spec.layers.length,
    heads: spec.n_heads,
    queries: spec.n_query,
    keys: spec.n_key,
    queryLabel: label,
    keyLabel: Math.min(label, 96),
  };
}

/** Which way the axes of the grid run. */
function legendView({ life, layout }: Parts): HTMLElement {
  const root = el("div", { class: "title muted" });
  life.effect(() => {
    root.textContent = layout.value.grid.across ? "heads \u2193  layers \u2192" : "layers \u2193  heads \u2192";
    return undefined;
  });
  return root;
}

/** Keys that work wherever the focus is. */
function walkLayers({ state, life }: Parts, root: HTMLElement): void {
  const { layers } = state.spec;
  life.on(root, "keydown", (event) =>
    take(event, (key) => {
      if (key === "Escape") return state.release();
      if ((key !== "[" && key !== "]") || event.target instanceof HTMLSelectElement) return false;
      const at = layers.indexOf(state.selected.layer.peek()) + (key === "]" ? 1 : -1);
      if (at >= 0 && at < layers.length) state.select({ layer: layers[at]! });
      return true;
    }),
  );
  life.on(root, "keydown", keep);
}

/** Say on the root what is shown, and count, once everything that follows from a change is drawn. */
function stamp({ state, life, theme, layout, redraw, ratio }: Parts, root: HTMLElement): void {
  let [count, waiting] = [0, false];
  life.effect(() => {
    const picture = state.picture.value;
    const { layer, head } = state.shown.value;
    for (const each of [theme, layout, redraw, ratio, state.position, state.spoken, state.thumbs, state.status])
      each.value;
    root.dataset.layer = `${layer}`;
    root.dataset.head = `${head}`;
    root.dataset.exact = picture.kind === "exact" ? "true" : picture.kind === "pooled" ? "pooled" : "false";
    if (waiting || layout.value.width === 0) return undefined;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      root.dataset.ready = `${++count}`;
    });
    return undefined;
  });
}
