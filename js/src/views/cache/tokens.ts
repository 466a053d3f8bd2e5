import { signal } from "@preact/signals-core";
import { step } from "../../draw/color";
import { el } from "../../draw/dom";
import { take, walk } from "./keys";
import type { Parts } from "./parts";
import { describe, tokenElement } from "./token-text";

/** The text, painted by what the chosen position reads from it. */
export function tokensView({ state, life, theme, layout }: Parts): HTMLElement {
  const root = el("div", {
    class: "tokens",
    tabindex: 0,
    role: "listbox",
    "aria-label": "text; the chosen token is the one that reads",
    "aria-orientation": "horizontal",
  });
  const built = signal<HTMLElement[]>([]);

  life.effect(() => {
    const example = state.example.value;
    const tokens = (example?.text ?? []).map((_, index) => {
      const token = tokenElement(example!, index);
      token.id = `tlw-token-${index}`; // ids are a shadow root's own
      token.dataset.testid = "tlw-token";
      token.dataset.index = `${index}`;
      token.title = describe(example!, index);
      token.setAttribute("role", "option");
      return token;
    });
    root.replaceChildren(...tokens);
    built.value = tokens;
    return undefined;
  });

  life.effect(() => {
    const { values } = state.row.value;
    const { ramp, ink } = theme.value;
    const chosen = state.selected.position.value + state.offset;
    const shown = state.position.value + state.offset;
    const lit = (state.hovered.value ?? state.pinned.value)?.key;
    built.value.forEach((token, key) => {
      const at = step(values[key] || 0); // NaN paints nothing
      token.style.background = at === 0 ? "" : ramp.css(at);
      token.style.color = at < 40 ? "" : ink(at);
      token.classList.toggle("chosen", key === chosen);
      token.classList.toggle("reading", key === shown);
      token.classList.toggle("lit", key === lit);
      token.setAttribute("aria-selected", `${key === chosen}`);
    });
    root.setAttribute("aria-activedescendant", `tlw-token-${chosen}`);
    return undefined;
  });

  // A long text scrolls inside: to what is chosen, and never the page with it.
  life.effect(() => {
    layout.value;
    const token = built.value[state.selected.position.value + state.offset];
    if (!token) return undefined;
    const { offsetTop: top, offsetHeight: height } = token;
    if (top < root.scrollTop) root.scrollTop = top - height;
    else if (top + height > root.scrollTop + root.clientHeight) root.scrollTop = top + 2 * height - root.clientHeight;
    return undefined;
  });

  /** The query position of a token; null for those that only are keys. */
  const at = (event: Event): number | null => {
    const token = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
    const position = token ? Number(token.dataset.index) - state.offset : -1;
    return position >= 0 ? position : null;
  };
  life.on(root, "pointerover", (event) => {
    state.previewPosition.value = at(event);
  });
  life.on(root, "pointerleave", () => {
    state.previewPosition.value = null;
  });
  life.on(root, "click", (event) => {
    const position = at(event);
    if (position !== null) state.select({ position });
  });
  life.on(root, "keydown", (event) =>
    take(event, (key) => {
      const next = walk(key, 0, state.selected.position.peek(), 1, state.spec.n_query);
      if (!next || key === "ArrowUp" || key === "ArrowDown") return false;
      state.select({ position: next[1] });
      return true;
    }),
  );
  return root;
}
