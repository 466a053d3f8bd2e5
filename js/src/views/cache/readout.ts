import { el } from "../../draw/dom";
import { short } from "../../draw/format";
import { take } from "./keys";
import type { Parts } from "./parts";
import type { Cell } from "./selection";
import { tokenElement } from "./token-text";

/** The line at the bottom: the cell in words, for eyes and for screen readers, and the code that fetches it. */
export function readoutView({ state, life }: Parts, root: HTMLElement): HTMLElement {
  const words = el("div", { class: "words", "data-testid": "tlw-readout", "aria-live": "polite", "aria-atomic": true });
  const code = el("code", { "data-testid": "tlw-code" });
  const copy = el("button", { class: "link", "data-testid": "tlw-copy" }, "copy code");
  const line = el("div", { class: "readout" }, words, code, copy);

  life.effect(() => {
    const spoken = state.spoken.value;
    const { layer, head } = state.shown.value;
    const place = `L${layer}H${head}`;
    copy.disabled = !spoken;
    code.textContent = spoken ? state.code(spoken.cell) : "";
    if (!spoken) {
      words.replaceChildren(el("span", { class: "muted" }, place));
      return undefined;
    }
    const { query, key } = spoken.cell;
    words.replaceChildren(
      link(state.example.value!, spoken.cell, state.offset),
      el("span", { class: "value" }, weightText(state, spoken.cell)),
      el(
        "span",
        { class: "muted" },
        `${place} \u00b7 query ${query} \u00b7 key ${key}${spoken.why === "strongest" ? " \u00b7 strongest" : ""}`,
      ),
    );
    return undefined;
  });

  let timer: ReturnType<typeof setTimeout> | undefined;
  const run = async () => {
    const spoken = state.spoken.peek();
    if (!spoken) return;
    copy.textContent = (await toClipboard(state.code(spoken.cell), line)) ? "copied" : "not allowed";
    clearTimeout(timer);
    timer = setTimeout(() => {
      copy.textContent = "copy code";
    }, 1200);
  };
  life.add(() => clearTimeout(timer));
  life.on(copy, "click", run);
  life.on(root, "keydown", (event) =>
    take(event, (key) => {
      if (key !== "c" || event.target instanceof HTMLSelectElement) return false;
      run();
      return true;
    }),
  );
  return line;
}

/** `query -> key`, as tokens. */
export function link(example: Parameters<typeof tokenElement>[0], { query, key }: Cell, offset: number): HTMLElement {
  return el(
    "span",
    { class: "link-of" },
    tokenElement(example, query + offset),
    el("span", { class: "arrow", "aria-label": "reads" }, "\u2192"),
    tokenElement(example, key),
  );
}

/** Only a weight that is at hand is a number; a preview has it in eight bits, and says so. */
function weightText(state: Parts["state"], cell: Cell): string {
  const weight = state.weight(cell);
  if (weight !== undefined) return short(weight);
  const { kind, rows, cols } = state.picture.value;
  const { n_query, n_key } = state.spec;
  const rounded = kind === "thumbnail" && rows === n_query && cols === n_key;
  return rounded ? `\u2248 ${state.paint(cell).toFixed(2)}` : "\u2026";
}

async function toClipboard(text: string, near: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain http there is no clipboard to ask; the old way still is.
    const area = el("textarea", { class: "offscreen", "aria-hidden": true });
    area.value = text;
    const focused = (near.getRootNode() as ShadowRoot).activeElement as HTMLElement | null;
    near.append(area);
    area.select();
    const done = document.execCommand?.("copy") ?? false;
    area.remove();
    focused?.focus();
    return done;
  }
}
